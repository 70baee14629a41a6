//go:build !crashtest

package lazy

// omit reports whether a rule of doc.go is switched off. It never is, but for
// the crash test, which is built with the tag crashtest and shows that each
// rule is needed.
func omit(rule) bool { return false }
