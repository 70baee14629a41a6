//go:build !crashtest

package main

import "errors"

func omit(int) error { return errors.New("build with -tags crashtest to switch rules off") }
