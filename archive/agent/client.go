package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
)

// ErrAway is wrapped by errors that say that there is no agent to do the work, or
// that it was lost on the way: nothing is known of the request.
var ErrAway = errors.New("the agent does not answer")

// Silence is for how long an agent may give no sign of life.
const Silence = 60 * time.Second

const (
	startAdvice   = "start it (systemctl start pgbak-agent), or set agent.when-absent: fallback."
	restartAdvice = "restart the agent (systemctl restart pgbak-agent), so that it is of the same version and configuration as this program."
)

// Client asks the agent at a socket. Errors are a [Failure], which is what the
// agent met, or wrap [ErrAway].
type Client struct {
	Socket string
	Clock  func() time.Time

	silence time.Duration // 0 is Silence
}

// Ping asks whether the agent answers.
func (c Client) Ping(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Operation: opPing}, nil)
	return err
}

// Push has the file of a request pushed. The result tells, as archive.Pusher's, what was
// stored in spite of an error.
func (c Client) Push(ctx context.Context, r Request) (archive.Result, error) {
	r.Operation = opPush
	path := r.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.Directory, path)
	}
	// Passed along, it lets the agent make sure that it sees the same file. What
	// cannot be opened the agent says. Opening waits for nothing, not even at a pipe.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		file = nil
	} else {
		defer file.Close()
	}
	a, err := c.ask(ctx, r, file)
	return a.pushed(), err
}

// Get has the file of a request fetched to dest, which is replaced in one step
// or left alone, as by archive.Getter.
func (c Client) Get(ctx context.Context, r Request, dest string) (archive.Got, error) {
	r.Operation, r.Path = opGet, dest
	var got archive.Got
	err := archive.Replace(dest, func(f *os.File) error {
		a, err := c.ask(ctx, r, f)
		got = archive.Got{Repository: a.From, Warnings: a.Warnings}
		return err
	})
	return got, err
}

// ask sends a request, with a file if there is one, and waits for the answer.
func (c Client) ask(ctx context.Context, r Request, file *os.File) (answer, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return answer{}, hint.Wrap(fmt.Errorf("%w: %w", ErrAway, err), startAdvice)
	}
	defer conn.Close()
	if err := c.checkListener(conn); err != nil {
		return answer{}, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	a, err := c.converse(ctx, conn, r, file)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return answer{}, context.Cause(ctx)
	case errors.As(err, new(*Failure)):
		return a, err
	case errors.Is(err, ErrAway):
		return answer{}, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return answer{}, hint.Wrap(fmt.Errorf("%w: no sign of life for %s from %s", ErrAway, c.patience(), c.Socket), restartAdvice)
	}
	return answer{}, hint.Wrap(fmt.Errorf("%w: it ended before it had answered: %w", ErrAway, err), startAdvice)
}

// checkListener refuses to believe another user where everybody may put a socket,
// as in /tmp, while the agent is not there. Elsewhere the agent may be of any user,
// as a sidecar is.
func (c Client) checkListener(conn *net.UnixConn) error {
	dir := filepath.Dir(c.Socket)
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if info.Mode()&os.ModeSticky == 0 || info.Mode().Perm()&0o002 == 0 {
		return nil
	}
	p, err := peerOf(conn)
	if err == nil && p.uid != 0 && p.uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("user %d listens at %s, and everybody may in %s", p.uid, c.Socket, dir)
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("%w: %w", ErrAway, err), "set agent.socket to a path in a directory that only the user who runs the agent may write.")
	}
	return nil
}

func (c Client) patience() time.Duration {
	if c.silence > 0 {
		return c.silence
	}
	return Silence
}

// extend waits for the next sign of life, but not after the end of ctx, which may
// have set the deadline a moment ago.
func (c Client) extend(ctx context.Context, conn *net.UnixConn) {
	_ = conn.SetDeadline(c.Clock().Add(c.patience()))
	if ctx.Err() != nil {
		_ = conn.SetDeadline(time.Unix(1, 0))
	}
}

func (c Client) converse(ctx context.Context, conn *net.UnixConn, r Request, file *os.File) (answer, error) {
	r.Version = protocolVersion
	message, err := encode(r)
	if err != nil {
		return answer{}, err
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	c.extend(ctx, conn)
	n, _, err := conn.WriteMsgUnix(message, rights, nil)
	if err == nil && n < len(message) {
		_, err = conn.Write(message[n:])
	}
	// An agent that refuses before it has read everything has said why.
	var a answer
	for {
		a = answer{}
		if readErr := decode(conn, &a); readErr != nil {
			return answer{}, errors.Join(err, readErr)
		}
		if !a.Working {
			break
		}
		c.extend(ctx, conn)
	}
	if a.Version != protocolVersion {
		return answer{}, hint.Wrap(fmt.Errorf("%w: it speaks version %d of its protocol, this program version %d", ErrAway, a.Version, protocolVersion), restartAdvice)
	}
	if a.Failure != nil {
		return a, hint.Wrap(a.Failure, "%s", a.Failure.Hint)
	}
	return a, nil
}
