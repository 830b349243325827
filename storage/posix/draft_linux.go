package posix

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openUnnamed opens a new file in the file system of dir that has no name; the
// kernel frees it when it is closed without having got one.
func openUnnamed(dir *os.File) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, fileMode)
	})
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), dir.Name()+"/(unnamed)"), nil
	case unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL, unix.ENOSYS:
		// open(2): EISDIR is what kernels say that do not know the flag.
		return nil, errNoUnnamed
	}
	if wasRemoved(dir, err) {
		return nil, errVanished
	}
	return nil, fmt.Errorf("open an unnamed file in %s: %w", dir.Name(), err)
}

// linkUnnamed gives the file its first name, or one more. The way through
// /proc is open(2)'s; linkat with AT_EMPTY_PATH takes a capability.
func linkUnnamed(file, dir *os.File, name string) error {
	return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(file.Fd())),
		int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
}

// canLinkUnnamed tells whether /proc is there: without it, linkUnnamed would
// say ENOENT as if the directory had been removed.
func canLinkUnnamed() bool {
	_, err := os.Lstat("/proc/self/fd")
	return err == nil
}

// unnamedIsDurable tells whether fsync of an unnamed file and then of the
// directory that it is linked into is known to make its content durable. Btrfs
// leaves an inode without links out of its log, so that after a power failure
// the name could stand without the content; other file systems were not looked at.
func unnamedIsDurable(root *os.File) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &s); err != nil {
		return false
	}
	switch int64(s.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}
