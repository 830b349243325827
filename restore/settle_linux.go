package restore

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bulkSync tells whether syncfs makes everything durable on the file system of
// f and says so when it fails. From Linux 5.8 on syncfs reports errors of
// writes that happened since f was opened, for file systems that live on a
// block device of their own: those below. Not so overlayfs, whose upper layer
// keeps the error, and network file systems.
func bulkSync(f *os.File) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil || !kernelAtLeast(5, 8) {
		return false
	}
	switch int64(s.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// syncFileSystem makes the whole file system of f durable.
func syncFileSystem(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// startWriteback asks the kernel to begin with the writing of f. It is only
// advice: an error says nothing that the later sync would not.
func startWriteback(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
