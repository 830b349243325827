package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
)

// socketMode lets the group of the socket in, and nobody else.
const socketMode = 0o660

// ErrRunning is wrapped by the error of an agent whose socket another one serves.
var ErrRunning = errors.New("another agent is running")

// listen makes the socket at path. A lock beside it tells the socket of an agent
// that was killed, which is replaced, from that of one that lives. The lock is held
// until unlock; its file stays, since to remove it would let two agents each hold
// a lock of that name.
func listen(path string) (l *net.UnixListener, unlock func(), err error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, hint.Wrap(fmt.Errorf("agent socket: %w", err),
			"make the directory of agent.socket, owned by the user who runs the agent; systemd does with RuntimeDirectory=pgbak.")
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil, fmt.Errorf("agent socket %s: %w", path, ErrRunning)
	} else if err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if err := removeStale(path); err != nil {
		return nil, nil, err
	}
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, fmt.Errorf("agent socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		_ = l.Close()
		return nil, nil, fmt.Errorf("agent socket: %w", err)
	}
	return l, func() { _ = lock.Close() }, nil
}

// removeStale makes room for the socket: only of what is a socket, and only if
// nobody answers there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("agent socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("agent socket: %s is there and is not a socket", path)
	}
	if conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}); err == nil {
		_ = conn.Close()
		return fmt.Errorf("agent socket %s: %w", path, ErrRunning)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("agent socket: %w", err)
	}
	return nil
}

// peer is who is at the other end of a connection, by the kernel's word.
type peer struct {
	uid    uint32
	groups []uint32
}

func peerOf(conn *net.UnixConn) (p peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	failed := raw.Control(func(fd uintptr) {
		var c *unix.Ucred
		if c, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.uid = c.Uid
		p.groups = append(peerGroups(fd), c.Gid)
	})
	return p, errors.Join(failed, err)
}

// peerGroups asks for the supplementary groups; none where the kernel does not tell.
func peerGroups(fd uintptr) []uint32 {
	groups := make([]uint32, 64)
	for range 2 {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			return groups[:size/4]
		}
		if errno != unix.ERANGE || size > 1<<20 {
			return nil
		}
		groups = make([]uint32, size/4)
	}
	return nil
}

// mayAsk tells whether the peer is the agent's own user, root, or of the group of
// the socket. The socket's mode says the same; this holds where somebody changed it.
func (p peer) mayAsk(uid uint32, socketGroup uint32) bool {
	return p.uid == uid || p.uid == 0 || slices.Contains(p.groups, socketGroup)
}

func groupOf(path string) (uint32, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, fmt.Errorf("agent socket: %w", err)
	}
	st, isUnix := info.Sys().(*syscall.Stat_t)
	if !isUnix {
		return 0, fmt.Errorf("agent socket %s has no group", path)
	}
	return st.Gid, nil
}

// passing reads from a connection and keeps the first file that is passed along.
type passing struct {
	conn *net.UnixConn
	file *os.File
}

// Read takes what descriptors come with the bytes; others than the first are closed.
func (p *passing) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(b, oob)
	messages, malformed := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			if p.file == nil {
				p.file = os.NewFile(uintptr(fd), "what the client passed")
			} else {
				_ = unix.Close(fd)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return n, io.EOF // which net wraps
	}
	return n, errors.Join(err, malformed)
}

func (p *passing) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
}

// checkWriteMode refuses a descriptor that its owner may not write by.
func checkWriteMode(file *os.File) error {
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("look at the destination: %w", err)
	}
	if mode := flags & unix.O_ACCMODE; mode != unix.O_WRONLY && mode != unix.O_RDWR {
		return errors.New("the destination was not opened for writing")
	}
	return nil
}
