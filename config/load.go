package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the file's name under the root.
const FileName = "config.json"

// maxFile bounds the file.
const maxFile = 64 << 10

// Sources is where Load looks. The zero Sources has the defaults alone, and the file under the default root.
type Sources struct {
	// Flags holds the flags that were given, by the setting's name. One that was not given must be missing, not empty.
	Flags map[string]string
	// Env looks a variable up; nil: no environment. A variable that is set but empty counts as not set, since config.json of a
	// Docker plugin cannot leave one out.
	Env func(key string) (string, bool)
	// File is the file to read instead of ROOT/config.json; then it must exist.
	File string
}

// Load gathers the settings. The Config is whole even where err is not nil: a faulty setting has its default. err is Faults.
func Load(src Sources) (Config, error) {
	l := loader{src: src, cfg: Config{source: map[string]string{}}}
	settings := Settings()
	l.apply(settings[0], nil) // root first: the file lies under it
	file := l.readFile()
	for _, s := range settings[1:] {
		l.apply(s, file)
	}
	if err := l.cfg.Validate(); err != nil {
		var more Faults
		errors.As(err, &more)
		for _, f := range more {
			if !l.faulty(f.Setting) { // what could not be read is not missing as well
				l.faults = append(l.faults, f)
			}
		}
	}
	if len(l.faults) == 0 {
		return l.cfg, nil
	}
	return l.cfg, l.faults
}

type loader struct {
	src    Sources
	cfg    Config
	faults Faults
}

func (l *loader) faulty(name string) bool {
	for _, f := range l.faults {
		if f.Setting == name {
			return true
		}
	}
	return false
}

// apply sets s from the first source that has a value. A faulty value is not replaced by the next source's, which nobody would expect, but by the
// default.
func (l *loader) apply(s Setting, file map[string]string) {
	value, source, found := l.find(s, file)
	if found {
		err := s.set(&l.cfg, value)
		if err == nil {
			l.cfg.source[s.Name] = source
			return
		}
		l.faults = append(l.faults, Fault{Setting: s.Name, Source: source, Err: err})
	}
	if s.Default == "" {
		return
	}
	if err := s.set(&l.cfg, s.Default); err != nil {
		panic(fmt.Sprintf("config: default of %s: %v", s.Name, err)) // a mistake in Settings, seen by every test
	}
}

func (l *loader) find(s Setting, file map[string]string) (value, source string, found bool) {
	if v, ok := l.src.Flags[s.Name]; ok {
		return v, "flag --" + s.Name, true
	}
	if l.src.Env != nil {
		if v, ok := l.src.Env(s.Env); ok && v != "" {
			return v, "environment " + s.Env, true
		}
	}
	if v, ok := file[s.Name]; ok {
		return v, "file " + l.cfg.File, true
	}
	return "", "", false
}

// readFile returns the file's settings. Where there is no file there are none; what is wrong with it becomes a fault.
func (l *loader) readFile() map[string]string {
	name := l.src.File
	if name == "" {
		name = filepath.Join(l.cfg.Root, FileName)
	}
	fault := func(err error) {
		l.faults = append(l.faults, Fault{Setting: "file", Source: name, Err: err})
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) && l.src.File == "" {
		return nil
	}
	if err != nil {
		fault(err)
		return nil
	}
	defer f.Close()
	l.cfg.File = name
	b := make([]byte, maxFile+1)
	n, err := readFull(f, b)
	if err != nil {
		fault(err)
		return nil
	}
	if n > maxFile {
		fault(fmt.Errorf("is longer than %d bytes", maxFile))
		return nil
	}
	values, err := decodeFile(b[:n])
	if err != nil {
		fault(err)
		return nil
	}
	if st, err := f.Stat(); err == nil && st.Mode().Perm()&0o077 != 0 && values["token"] != "" {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%s holds the token and others can read it: chmod 600 %s", name, name))
	}
	return values
}

// decodeFile reads a flat JSON object of strings. It is strict: an unknown key, a key twice, another type than a string or anything
// behind the object is an error. No error repeats a value.
func decodeFile(b []byte) (map[string]string, error) {
	known := map[string]Setting{}
	for _, s := range Settings() {
		known[s.Name] = s
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New(`is not a JSON object, such as {"hive": "https://hive.example.org"}`)
	}
	values := map[string]string{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("is not JSON: near byte %d", d.InputOffset())
		}
		name := key.(string) // a decoder yields nothing else in this place
		s, ok := known[name]
		switch _, twice := values[name]; {
		case !ok:
			return nil, fmt.Errorf("has the unknown key %q; known are %s", name, fileKeys())
		case s.NoFile:
			return nil, fmt.Errorf("has the key %q, which cannot stand in a file under the root", name)
		case twice:
			return nil, fmt.Errorf("has the key %q twice", name)
		}
		value, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("is not JSON: near byte %d", d.InputOffset())
		}
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("key %q is not a string, such as %q", name, s.Example)
		}
		values[name] = text
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("is not JSON: it ends within the object")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has something behind the object")
	}
	return values, nil
}

func fileKeys() string {
	var b bytes.Buffer
	for _, s := range Settings() {
		if s.NoFile {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(s.Name)
	}
	return b.String()
}

// readFull fills b as far as f goes.
func readFull(f io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(f, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n, err
}
