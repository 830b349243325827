package restore

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// owners decides whom restored files belong to. Only root can give files away:
// otherwise all belong to who runs the restore.
type owners struct {
	mu       sync.Mutex
	root     bool
	uid, gid int // of the directory above the target, for names that are unknown here
	users    map[string]int
	groups   map[string]int
	missing  []string // names that are unknown here, in the order in which they were met
}

// newOwners looks at the directory above the target directory.
func newOwners(targetDir string) (*owners, error) {
	o := &owners{root: os.Geteuid() == 0, users: map[string]int{}, groups: map[string]int{}}
	info, err := os.Stat(filepath.Dir(targetDir))
	if err != nil {
		return nil, fmt.Errorf("owner of the restored files: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("owner of the restored files: this system does not tell owners")
	}
	o.uid, o.gid = int(stat.Uid), int(stat.Gid)
	return o, nil
}

// ids gives the numbers of a recorded user and group on this machine.
func (o *owners) ids(name, group string) (uid, gid int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	uid = o.id(o.users, "user", name, o.uid, func(n string) (string, error) {
		u, err := user.Lookup(n)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	gid = o.id(o.groups, "group", group, o.gid, func(n string) (string, error) {
		g, err := user.LookupGroup(n)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return uid, gid
}

func (o *owners) id(known map[string]int, kind, name string, fallback int, lookup func(string) (string, error)) int {
	if id, ok := known[name]; ok {
		return id
	}
	id := fallback
	number, err := lookup(name)
	if err != nil {
		number = name // it had no name where the backup was taken
	}
	if n, err := strconv.ParseUint(number, 10, 31); err == nil {
		id = int(n)
	} else {
		o.missing = append(o.missing, fmt.Sprintf("%s %q", kind, name))
	}
	known[name] = id
	return id
}

// warning says who was not found; empty when all were.
func (o *owners) warning() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.root || len(o.missing) == 0 {
		return ""
	}
	return fmt.Sprintf("unknown on this machine: %v; their files belong to user and group %d:%d, as the directory above the target does",
		o.missing, o.uid, o.gid)
}
