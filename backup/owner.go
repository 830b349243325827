package backup

import (
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// owners turns numbers into names, each number once. Where the system knows no
// name, as in many containers, the number stands for itself.
type owners struct {
	users  map[uint32]string
	groups map[uint32]string
}

func newOwners() owners {
	return owners{users: map[uint32]string{}, groups: map[uint32]string{}}
}

func (o owners) of(info fs.FileInfo) (owner, group string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", ""
	}
	return lookup(o.users, st.Uid, func(id string) (string, error) {
			u, err := user.LookupId(id)
			if err != nil {
				return "", err
			}
			return u.Username, nil
		}), lookup(o.groups, st.Gid, func(id string) (string, error) {
			g, err := user.LookupGroupId(id)
			if err != nil {
				return "", err
			}
			return g.Name, nil
		})
}

func lookup(known map[uint32]string, id uint32, find func(string) (string, error)) string {
	name, ok := known[id]
	if !ok {
		name = strconv.FormatUint(uint64(id), 10)
		if found, err := find(name); err == nil {
			name = found
		}
		known[id] = name
	}
	return name
}

// clusterOwner names who owns the data directory.
func (r *run) clusterOwner() (owner, group string) {
	info, err := os.Stat(r.o.PGData)
	if err != nil {
		return "", ""
	}
	return newOwners().of(info)
}
