package lazy

// rule is one of the rules of doc.go.
type rule uint8

const (
	r1 rule = 1 + iota
	r2
	r3
	r4
	r5
	r6
)
