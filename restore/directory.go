package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxListed bounds how many entries of a directory on the way are looked at.
const maxListed = 10000

// tablespaceVersion is the directory that PostgreSQL makes in a tablespace
// (GetTablespacePath of common/relpath.c).
var tablespaceVersion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^PG_\d+_\d+$`) })

// checkDirectory refuses a directory that a cluster, or a part of one, must not
// be written to. role says what it is for, in errors.
func checkDirectory(role, dir string) error {
	if !filepath.IsAbs(dir) {
		return unfit("give an absolute path.", "%s %s is not an absolute path", role, dir)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := checkParent(role, dir); err != nil {
			return err
		}
	case err != nil:
		return unfit("check the path and its permissions.", "%s: %v", role, err)
	case !info.IsDir():
		return unfit("choose a directory that is empty or does not exist.", "%s %s is not a directory", role, dir)
	default:
		if err := checkEmpty(role, dir); err != nil {
			return err
		}
	}
	return checkSurroundings(role, dir)
}

// checkParent is for a directory that will have to be made.
func checkParent(role, dir string) error {
	if link, err := os.Readlink(dir); err == nil {
		return unfit("make that directory, or choose another.", "%s %s is a link to %s, which does not exist", role, dir, link)
	}
	parent := filepath.Dir(dir)
	info, err := os.Stat(parent)
	if err != nil || !info.IsDir() {
		return unfit(fmt.Sprintf("make the directory %s first.", parent), "%s %s cannot be made: %s is no directory", role, dir, parent)
	}
	return checkWritable(role, dir, parent)
}

func checkWritable(role, dir, where string) error {
	if err := unix.Access(where, unix.W_OK|unix.X_OK); err != nil {
		return unfit("run as the owner of the cluster, or choose another directory.", "%s %s: no permission to write to %s", role, dir, where)
	}
	return nil
}

// checkEmpty refuses a directory with anything in it, and says what it found
// when it is a cluster.
func checkEmpty(role, dir string) error {
	names, err := listSome(dir, 1)
	if err != nil {
		return unfit("check its permissions.", "%s: %v", role, err)
	}
	if len(names) == 0 {
		return checkWritable(role, dir, dir)
	}
	if pid, ok := runningServer(dir); ok {
		return unfit("choose another directory; a running server is never touched.", "%s %s is in use by the server with process id %d", role, dir, pid)
	}
	what := fmt.Sprintf("%q is in it", names[0])
	if _, err := os.Lstat(filepath.Join(dir, versionFile)); err == nil {
		what = "it holds a cluster"
	} else if names[0] == "lost+found" {
		what = "it is a mount point; use a directory below it"
	}
	return unfit("choose a directory that is empty or does not exist, or move its content away.", "%s %s is not empty: %s", role, dir, what)
}

// runningServer reads postmaster.pid and asks whether its process is there. In
// doubt (another user's process) it is.
func runningServer(dir string) (pid int, ok bool) {
	f, err := os.Open(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(head), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return 0, false
	}
	return pid, !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// checkSurroundings refuses a directory inside another cluster or tablespace:
// its server would take our files for its own, or remove them.
func checkSurroundings(role, dir string) error {
	for at := filepath.Dir(realPath(dir)); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, versionFile)); err == nil {
			return unfit("choose a directory outside of it.", "%s %s lies inside the cluster at %s", role, dir, at)
		}
		names, err := listSome(at, maxListed)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return unfit("check its permissions.", "%s %s: %v", role, dir, err)
		}
		for _, name := range names {
			if tablespaceVersion().MatchString(name) || tablespaceVersion().MatchString(filepath.Base(at)) {
				return unfit("choose a directory outside of it.", "%s %s lies inside the tablespace at %s", role, dir, at)
			}
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// listSome lists at most n names.
func listSome(dir string, n int) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return names, nil
}

// realPath resolves the links of a path as far as it exists.
func realPath(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(realPath(parent), filepath.Base(path))
}

// checkApart refuses destinations that are equal or inside one another.
func checkApart(all []destination) error {
	for i, a := range all {
		for _, b := range all[:i] {
			if within(realPath(a.dir), realPath(b.dir)) || within(realPath(b.dir), realPath(a.dir)) {
				return unfit("give each its own place with --tablespace-map or --link-map.",
					"%s %s and %s %s lie inside one another", a.role(), a.dir, b.role(), b.dir)
			}
		}
	}
	return nil
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// freeSpace is how many bytes an unprivileged process can add to the file
// system that dir is or would be on; ok is false when that is not known.
func freeSpace(dir string) (bytes int64, ok bool) {
	var s unix.Statfs_t
	for at := realPath(dir); ; at = filepath.Dir(at) {
		err := unix.Statfs(at, &s)
		if err == nil {
			return int64(s.Bavail) * int64(s.Bsize), true
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return 0, false
		}
	}
}
