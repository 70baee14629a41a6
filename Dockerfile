# The root file system of the managed plugin: one static binary and the certificates of the usual authorities, nothing else.
#
#   docker build -t fractal-lazy-rootfs .
#
# docs/DOCKER.md says how to make the plugin of it.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o /fractal-lazy .

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /fractal-lazy /fractal-lazy
ENTRYPOINT ["/fractal-lazy"]
CMD ["run"]
