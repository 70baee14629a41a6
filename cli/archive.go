package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/archive"
	"fractal-lazy/plugin/control"
	"fractal-lazy/seal"
	"fractal-lazy/volume"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export VOLUME [SNAPSHOT] FILE",
		Short: "Write a published snapshot to a file, for an offline copy",
		Long: `Writes a published snapshot of the volume to FILE, a CAR: all of its blocks, encrypted as they are in the block store, and the signed manifest. Without
SNAPSHOT it is the newest published one. The key is not in the file: keep it elsewhere, since without it the file is worth nothing.

The file is checked while it is written: each block against its CID, that none is missing, and the signature. It is named FILE.part until it is whole and on the
disk; FILE must not exist. With - it goes to standard output.`,
		Example: `  fractal-lazy export db /media/usb/db.car
  fractal-lazy export db 2026-01-31T12:00:00Z - | ssh vault 'cat > db.car'`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: a.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			file, r := args[len(args)-1], control.ExportRequest{}
			if len(args) == 3 {
				r.Snapshot = args[1]
			}
			if file == "-" && (a.json || isTerminal(a.Out)) {
				return usage(c, errors.New("the snapshot goes to standard output: send that to a file or a pipe, and leave --json out"))
			}
			res, err := a.export(c.Context(), args[0], r, file)
			if err != nil {
				return err
			}
			if file == "-" {
				return nil
			}
			return a.print(res, func(w io.Writer) {
				fmt.Fprintf(w, "%s holds generation %d of %s, of %s: %s in %d blocks\n", res.File, res.Snapshot.Generation, res.Volume,
					res.Snapshot.Created.UTC().Format(time.RFC3339), humanize.IBytes(res.Bytes), res.Blocks)
			})
		},
	}
}

// exportJSON is what `export` did.
type exportJSON struct {
	volume.Exported
	File   string `json:"file"`
	Blocks uint64 `json:"blocks"`
	Bytes  uint64 `json:"bytes"`
}

func (a *app) export(ctx context.Context, name string, r control.ExportRequest, file string) (exportJSON, error) {
	res := exportJSON{File: file}
	write := func(write func(io.Writer) error) error { return write(a.Out) }
	if file != "-" {
		// Before the daemon is asked for anything.
		if _, err := os.Lstat(file); err == nil {
			return res, fmt.Errorf("%s %w: remove it, or choose another name", file, errFileExists)
		}
		write = func(fn func(io.Writer) error) error { return writeWhole(file, fn) }
	}
	info, err := a.client().Get(ctx, name)
	if err != nil {
		return res, err
	}
	pub, err := seal.ParsePubkey(info.Pubkey)
	if err != nil {
		return res, err
	}
	e, err := a.client().Export(ctx, name, r)
	if err != nil {
		return res, err
	}
	defer e.Body.Close()
	res.Exported = e.Exported
	p := a.progress()
	defer p.end()
	err = write(func(w io.Writer) error {
		stats, err := follow(io.TeeReader(e.Body, w), pub, func(done uint64, rate float64) {
			p.show(volume.Progress{Phase: "exporting", Done: done, Total: max(e.Estimate, done), Rate: rate})
		})
		res.Blocks, res.Bytes = stats.Blocks, stats.Bytes
		if err != nil && e.Err() != nil {
			return e.Err()
		}
		return fileError(err)
	})
	if err != nil {
		return res, fmt.Errorf("export of volume %s to %s: %w", name, file, err)
	}
	return res, nil
}

// follow reads an exported snapshot to its end; nil: it was whole.
func follow(r io.Reader, pub seal.Pubkey, tell func(done uint64, rate float64)) (archive.Stats, error) {
	start, told := time.Now(), time.Now()
	car, err := archive.NewReader(r, pub)
	if err != nil {
		return archive.Stats{}, err
	}
	for {
		_, err := car.Next()
		if errors.Is(err, io.EOF) {
			return car.Stats(), nil
		}
		if err != nil {
			return car.Stats(), err
		}
		if now := time.Now(); tell != nil && now.Sub(told) >= tellEvery {
			told = now
			tell(car.Stats().Bytes, float64(car.Stats().Bytes)/now.Sub(start).Seconds())
		}
	}
}

const tellEvery = 250 * time.Millisecond

// fileError gives what is wrong with a file its exit code.
func fileError(err error) error {
	switch {
	case errors.Is(err, archive.ErrKey):
		return fmt.Errorf("%w: %w", volume.ErrOption, err)
	case errors.Is(err, archive.ErrFormat), errors.Is(err, archive.ErrCut), errors.Is(err, archive.ErrDamaged):
		return fmt.Errorf("%w: %w", volume.ErrArchive, err)
	}
	return err
}

// writeWhole makes a file that is either whole or not there.
//
// Order: 1. FILE.part is made, and locked against another one who writes it; 2. what write writes is on the disk; 3. it is renamed to FILE, unless that exists
// by now; 4. the folder is on the disk. A crash before 3 leaves FILE.part, which the next one writes over; an error removes it.
func writeWhole(file string, write func(io.Writer) error) (err error) {
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600) // 1
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s %w: another export is writing it", part, errFileExists)
	}
	if !isAt(f, part) { // it was renamed between the two calls: it is another one's whole file
		return fmt.Errorf("%s %w: another export wrote it", file, errFileExists)
	}
	defer func() {
		if err != nil {
			os.Remove(part)
		}
	}()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := write(f); err != nil { // 2
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, part, unix.AT_FDCWD, file, unix.RENAME_NOREPLACE) // 3
	if errors.Is(err, unix.EINVAL) {                                                      // a file system that cannot, as FAT of old kernels
		err = os.Rename(part, file)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w: it was made meanwhile", file, errFileExists)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file)) // 4
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// isAt tells whether path names the open file f.
func isAt(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

func (a *app) importCommand() *cobra.Command {
	var options []string
	c := &cobra.Command{
		Use:   "import FILE VOLUME",
		Short: "Bring an exported snapshot back to the block store and the Hive",
		Long: `Reads a file that ` + "`export`" + ` wrote, brings its blocks to the block store that the driver is set up with, and makes the snapshot known to its Hive, so that
the volume can be mounted, or restored to it. VOLUME has the key that the snapshot is signed by; with -o it is made, as ` + "`volume create`" + ` makes it.

Nothing newer is rolled back: where the Hive has newer snapshots, the one in the file becomes one of the older ones, for ` + "`fractal-lazy restore`" + `; where that cannot
be, it is refused with 8. A file that is cut off, spoilt or none of this kind ends it with 9, and nothing becomes known. FILE may be -, standard input.

` + optionsHelp,
		Example: `  fractal-lazy import /media/usb/db.car db
  fractal-lazy import /media/usb/db.car db -o privkey-file=/root/db.key`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			opts, err := a.importOptions(args[0], options)
			if err != nil {
				return usage(c, err)
			}
			res, err := a.importFile(c.Context(), args[0], args[1], opts)
			if err != nil {
				return err
			}
			return a.print(res, func(w io.Writer) { tellImported(w, res) })
		},
	}
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "KEY=VALUE, to make the volume first")
	return c
}

func (a *app) importOptions(file string, options []string) (map[string]string, error) {
	for _, o := range options {
		if file == "-" && (o == "privkey=-" || o == "sealed-key=-") {
			return nil, errors.New("the key and the file cannot both come from standard input")
		}
	}
	return a.parseOptions(options)
}

func tellImported(w io.Writer, r volume.Imported) {
	fmt.Fprintf(w, "generation %d of %s: %s in %d blocks imported", r.Generation, r.Volume, humanize.IBytes(r.Bytes), r.Blocks)
	if r.Known {
		fmt.Fprint(w, "; the Hive had it already")
	}
	if r.Made {
		fmt.Fprint(w, "; the Hive lacks the snapshots before it, so it got a new manifest")
	}
	if r.Newest {
		fmt.Fprintln(w, "\nIt is the newest: mount the volume")
	} else {
		fmt.Fprintf(w, "\nThe Hive has newer ones. To go back to it: fractal-lazy restore %s %d\n", r.Volume, r.Generation)
	}
}

// importFile sends a file to the daemon while it checks it itself. A volume that it made goes again where that fails; one that was there before stays,
// with its key.
func (a *app) importFile(ctx context.Context, file, name string, opts map[string]string) (res volume.Imported, err error) {
	in, size := a.In, uint64(0)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return res, err
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			size = uint64(st.Size())
		}
		in = f
	}
	client := a.client()
	info, err := client.Get(ctx, name)
	made := len(opts) > 0 && errors.Is(err, volume.ErrUnknown)
	if len(opts) > 0 && (err == nil || made) {
		info, err = client.Create(ctx, name, opts) // which takes one that is there with the same options
	}
	if err != nil {
		return res, err
	}
	if made {
		defer func() {
			if err != nil {
				undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				err = errors.Join(err, client.Remove(undo, name, false))
			}
		}()
	}
	pub, err := seal.ParsePubkey(info.Pubkey)
	if err != nil {
		return res, err
	}
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() { // ends with the file, or with the pipe
		_, err := follow(io.TeeReader(in, pw), pub, nil)
		pw.CloseWithError(err) // io.EOF where nil
		checked <- err
	}()
	p := a.progress()
	res, err = client.Import(ctx, name, pr, func(v volume.Progress) {
		v.Total = max(size, v.Total)
		p.show(v)
	})
	p.end()
	pr.Close()
	if err == nil {
		return res, nil
	}
	select {
	case ferr := <-checked:
		if ferr != nil && !errors.Is(ferr, io.ErrClosedPipe) && ctx.Err() == nil {
			err = fmt.Errorf("import of %s into volume %s: %w", file, name, fileError(ferr))
		}
	case <-ctx.Done(): // standard input may stand still
	case <-time.After(time.Second):
	}
	return res, err
}
