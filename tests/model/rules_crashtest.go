//go:build crashtest

package main

import "fractal-lazy/lazy"

func omit(number int) error { return lazy.Omit(number) }
