package kit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// PostgresBin is where Debian puts the programs of PostgreSQL 15.
const PostgresBin = "/usr/lib/postgresql/15/bin"

// Postgres is a PostgreSQL server on a data directory, run as user postgres,
// on a loopback port of its own and a socket outside the data. One goroutine at a
// time may start and stop it; Connect may be called from many.
type Postgres struct {
	Data   string // the data directory
	Socket string // folder of the socket
	Log    string // of the server and of the programs that are run
	Port   int
	// Settings are added to the command line, "name=value".
	Settings []string

	user   *syscall.Credential
	server *Process
}

// NewPostgres describes a server for the data directory data. dir, which is made, takes the socket and the
// log; its path must be short (sockets allow 107 bytes) and, as that of data, open to user postgres.
func NewPostgres(data, dir string) (*Postgres, error) {
	fail := func(err error) (*Postgres, error) { return nil, fmt.Errorf("set PostgreSQL up: %w", err) }
	if _, err := os.Stat(PostgresBin + "/postgres"); err != nil {
		return fail(fmt.Errorf("apt-get install postgresql-15: %w", err))
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fail(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return fail(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return fail(err)
	}
	p := &Postgres{Data: data, Socket: dir, Log: filepath.Join(dir, "postgres.log"),
		user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		return fail(err)
	}
	p.Port, err = freePort()
	if err != nil {
		return fail(err)
	}
	return p, nil
}

// freePort returns a port that nobody listens on right now.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Init makes the data directory and a cluster with page checksums in it.
// Settings go in with the later starts.
func (p *Postgres) Init(ctx context.Context) error {
	if err := os.Mkdir(p.Data, 0o700); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	if err := os.Chown(p.Data, int(p.user.Uid), int(p.user.Gid)); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	_, err := p.Run(ctx, "initdb", "-D", p.Data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums")
	return err
}

// Run runs one of PostgreSQL's programs against the server, as user
// postgres, and returns what it printed.
func (p *Postgres) Run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(PostgresBin, program), args...)
	cmd.Dir = p.Socket
	cmd.Env = append(os.Environ(), "PGHOST="+p.Socket, "PGPORT="+strconv.Itoa(p.Port), "PGUSER=postgres", "PGDATABASE=postgres", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Start starts the server and waits until it answers. A lock file that names a process which is
// not a server on this data (left by a machine that died) is taken away.
func (p *Postgres) Start(ctx context.Context) error {
	if p.server != nil {
		return errors.New("start PostgreSQL: it runs already")
	}
	if err := p.dropStaleLock(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	args := []string{"-D", p.Data, "-k", p.Socket, "-p", strconv.Itoa(p.Port), "-c", "listen_addresses=127.0.0.1"}
	for _, s := range p.Settings {
		args = append(args, "-c", s)
	}
	s, err := Start(ProcessOptions{Path: PostgresBin + "/postgres", Args: args, Dir: p.Socket, Log: p.Log, Credential: p.user})
	if err != nil {
		return err
	}
	p.server = s
	err = s.WaitHealthy(ctx, func(ctx context.Context) error {
		c, err := p.Connect(ctx)
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		return c.Ping(ctx)
	})
	if err != nil {
		p.Kill9()
	}
	return err
}

// dropStaleLock removes postmaster.pid where its process is no PostgreSQL on this data.
func (p *Postgres) dropStaleLock() error {
	lock := filepath.Join(p.Data, "postmaster.pid")
	b, err := os.ReadFile(lock)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _, _ := strings.Cut(string(b), "\n")
	cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline") // no such process: empty
	if strings.Contains(string(cmdline), "\x00"+p.Data+"\x00") {
		return fmt.Errorf("process %s runs on %s", pid, p.Data)
	}
	return os.Remove(lock)
}

// Process is the running server, or nil.
func (p *Postgres) Process() *Process { return p.server }

// Connect opens a connection through the socket; the caller closes it.
func (p *Postgres) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", p.Socket, p.Port))
}

// Query returns the first column of a query's only row, as text.
func (p *Postgres) Query(ctx context.Context, sql string, args ...any) (string, error) {
	c, err := p.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	var v any
	if err := c.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		return "", fmt.Errorf("query %.100q: %w", sql, err)
	}
	return fmt.Sprint(v), nil
}

// Exec runs statements without parameters.
func (p *Postgres) Exec(ctx context.Context, sql string) error {
	c, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("execute %.100q: %w", sql, err)
	}
	return nil
}

// Stop ends the server: fast, with a checkpoint; or, immediate, without, so
// that the next start has to recover, as after a crash.
func (p *Postgres) Stop(ctx context.Context, immediate bool) error {
	if p.server == nil {
		return nil
	}
	sig := syscall.SIGINT
	if immediate {
		sig = syscall.SIGQUIT
	}
	server := p.server
	select {
	case <-server.Done():
		p.Kill9()
		return fmt.Errorf("PostgreSQL had ended\n%s", server.LogTail(20))
	default:
	}
	children := descendantsOf(server.Pid())
	err := server.Stop(ctx, sig)
	for _, c := range children { // none is left after a good end
		c.kill()
	}
	awaitGone(children, familyPatience)
	p.server = nil
	return err
}

// Kill9 kills the server and all its processes at once, as the death of the
// machine does, and frees its shared memory.
func (p *Postgres) Kill9() {
	if p.server == nil {
		return
	}
	shm := p.sharedMemory()
	p.server.Kill9() // with its children, each in a session of its own
	p.server = nil
	if shm >= 0 {
		// Gone already where PostgreSQL could clean up.
		_, _ = unix.SysvShmCtl(shm, unix.IPC_RMID, nil)
	}
}

// sharedMemory returns the System V segment that postmaster.pid names, or -1.
func (p *Postgres) sharedMemory() int {
	b, err := os.ReadFile(filepath.Join(p.Data, "postmaster.pid"))
	if err != nil {
		return -1
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 || lines[0] != strconv.Itoa(p.server.Pid()) {
		return -1
	}
	if f := strings.Fields(lines[6]); len(f) == 2 { // key and id
		if id, err := strconv.Atoi(f[1]); err == nil {
			return id
		}
	}
	return -1
}
