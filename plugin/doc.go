// Package plugin serves the driver on a unix socket: Docker's volume plugin protocol, and beside it the API of package control,
// which the commands use.
//
// Terms. The backend is what knows volumes (Volumes, which *volume.Manager is). A mount id is the name under which somebody uses a
// mount: Docker makes one for each container, the commands use control.DefaultMountID.
//
// What is guaranteed. The server listens before there is a backend: Docker disables a plugin for good whose socket comes late, and
// one that dies within half a second of its start. So nothing that is wrong with settings, disk or network ends the server: SetFault
// makes it the answer to every call, until SetBackend mends it. Each of Docker's calls is answered within CallLimit; what takes longer
// goes on, and the answer is volume.ErrBusy: "preparing, try again". (A mount that nobody comes back for is taken down again by the
// backend.) A panic in a handler becomes that call's error.
//
// The scope of volumes is "local": each machine keeps its own list of names, and Swarm must not take a volume that one node created for
// one that every node has, since only one machine at a time may write it. Moving it is what the volume's key is for.
//
// Concurrency. All methods of Server may be called at once. Run waits for the calls that are under way, and returns when all
// goroutines of the server have ended.
//
// After a crash the socket's file is left; Listen removes one that nobody answers on. The server keeps nothing else on disk.
//
// Example:
//
//	s := plugin.New(plugin.Options{Log: log})
//	if err := s.Listen("/run/docker/plugins/fractal-lazy.sock"); err != nil {
//		return err
//	}
//	go func() {
//		m, err := volume.Open(ctx, deps, options)
//		if err != nil {
//			s.SetFault(err)
//			return
//		}
//		s.SetBackend(m)
//	}()
//	return s.Run(ctx, 10*time.Second)
package plugin
