package archive

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stamp gives the file's stamp, false where it says nothing.
func (w *walFile) stamp() (fileStamp, bool) {
	fd := int(w.file.Fd())
	var fs unix.Statfs_t
	var st unix.Stat_t
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || unix.Fstatfs(fd, &fs) != nil || unix.Fstat(fd, &st) != nil {
		return fileStamp{}, false
	}
	local := []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC}
	return fileStamp{Boot: strings.TrimSpace(string(boot)), Device: st.Dev, Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, slices.Contains(local, int64(fs.Type))
}
