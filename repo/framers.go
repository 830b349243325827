package repo

import (
	"context"
	"slices"
)

// Framers frame the same content for several repositories, for one worker: what
// the repositories have in common is done once. A content id is computed once
// for all plain repositories with the same algorithm, and for each encrypted
// one; content is compressed once for each way of compressing that somebody
// needs it in, and not at all where every repository holds it already.
//
// Slices have one element per repository, in the order given to NewFramers.
// Those that are returned are valid until the next call.
type Framers struct {
	each     []*Framer // nil once dropped
	ids      []ContentID
	windows  []Window
	smalls   []Small
	bundles  []Bundle
	gathered []byte // content of a bundle that leaves out what its repository holds
}

// NewFramers makes the framers of a worker.
func NewFramers(repositories ...*Repository) (*Framers, error) {
	n := len(repositories)
	fs := &Framers{ids: make([]ContentID, n), windows: make([]Window, n), smalls: make([]Small, n), bundles: make([]Bundle, n)}
	for i, r := range repositories {
		f, err := r.NewFramer()
		if err != nil {
			return nil, err
		}
		for j, other := range repositories[:i] {
			if r.keys == nil && other.keys == nil && r.config.IDAlgorithm == other.config.IDAlgorithm {
				f.ids = fs.each[j].ids
			}
			if f.compression == fs.each[j].compression {
				f.enc = fs.each[j].enc
			}
		}
		fs.each = append(fs.each, f)
	}
	return fs, nil
}

// Drop ends the work for a repository: its elements stay empty from now on.
func (fs *Framers) Drop(i int) {
	fs.each[i] = nil
	fs.windows[i], fs.smalls[i], fs.bundles[i] = Window{}, Small{}, Bundle{}
}

// Resume lets repository i use what interrupted backups have stored in it.
func (fs *Framers) Resume(i int, r *Resumption) {
	if f := fs.each[i]; f != nil {
		f.resumption = r
	}
}

// Room is the capacity that out wants, in bytes, so that compressed content of
// so many plain bytes needs no further memory: encoders want more than they use.
func (fs *Framers) Room(plain int) int {
	room := 0
	for i, f := range fs.each {
		if f != nil && fs.before(i, func(int) bool { return true }) < 0 {
			room += plain + plain/8
		}
	}
	return room
}

// before gives the first repository before i that compresses alike and suits, -1 when there is none.
func (fs *Framers) before(i int, suits func(j int) bool) int {
	for j, f := range fs.each[:i] {
		if f != nil && f.compression == fs.each[i].compression && suits(j) {
			return j
		}
	}
	return -1
}

// sum computes the content id of raw for each repository.
func (fs *Framers) sum(raw []byte) {
	for i, f := range fs.each {
		if f == nil {
			continue
		}
		shared := slices.IndexFunc(fs.each[:i], func(other *Framer) bool { return other != nil && other.ids == f.ids })
		if shared >= 0 {
			fs.ids[i] = fs.ids[shared]
		} else {
			fs.ids[i] = f.ids.sum(raw)
		}
	}
}

// Window frames the pages at window number n of a file. The bytes of new frames
// are appended to out, which is returned grown. Each of parents may be nil.
func (fs *Framers) Window(ctx context.Context, out, raw []byte, path string, n int64, pageSize int, parents []*ParentFile) ([]byte, []Window, error) {
	fs.sum(raw)
	for i, f := range fs.each {
		if f == nil {
			continue
		}
		w := f.lookUp(ctx, fs.ids[i], len(raw), path, n, pageSize, parents[i])
		if !w.reused {
			w.fresh.hashes = hashPages(raw, pageSize, f.seed)
			if j := fs.before(i, func(j int) bool { return !fs.windows[j].reused }); j >= 0 {
				w.fresh.payload, w.fresh.codec = fs.windows[j].fresh.payload, fs.windows[j].fresh.codec
			} else {
				var err error
				if out, w.fresh.payload, w.fresh.codec, err = f.compress(out, raw); err != nil {
					return out, nil, err
				}
			}
		}
		fs.windows[i] = w
	}
	return out, fs.windows, nil
}

// Small looks a small file's content up in the parents. Where wanted is true,
// some repository lacks the content, and it belongs into the raw of Bundle.
func (fs *Framers) Small(ctx context.Context, raw []byte, path string, parents []*ParentFile) (smalls []Small, wanted bool) {
	fs.sum(raw)
	for i, f := range fs.each {
		if f == nil {
			continue
		}
		fs.smalls[i] = f.lookUpSmall(ctx, fs.ids[i], len(raw), path, parents[i])
		wanted = wanted || !fs.smalls[i].reused
	}
	return fs.smalls, wanted
}

// Bundle compresses small files for each repository into one frame of those that
// it lacks. members[i] are all files as Small found them for repository i; raw
// is the content, one after the other, of those that Small said are wanted.
func (fs *Framers) Bundle(out, raw []byte, members [][]Small) ([]byte, []Bundle, error) {
	for i, f := range fs.each {
		if f == nil {
			continue
		}
		if j := fs.before(i, func(j int) bool { return lackTheSame(members[i], members[j]) }); j >= 0 {
			same := fs.bundles[j].fresh
			b := newBundle(same.raw, members[i])
			b.fresh.payload, b.fresh.codec = same.payload, same.codec
			fs.bundles[i] = b
			continue
		}
		var err error
		if out, fs.bundles[i], err = f.Bundle(out, fs.gather(raw, members, i), members[i]); err != nil {
			return out, nil, err
		}
	}
	return out, fs.bundles, nil
}

func lackTheSame(a, b []Small) bool {
	return slices.EqualFunc(a, b, func(x, y Small) bool { return x.reused == y.reused })
}

// gather takes out of raw what repository i lacks.
func (fs *Framers) gather(raw []byte, members [][]Small, i int) []byte {
	complete := true
	for m, s := range members[i] {
		complete = complete && !(s.reused && fs.wanted(members, m))
	}
	if complete {
		return raw
	}
	fs.gathered = fs.gathered[:0]
	offset := 0
	for m, s := range members[i] {
		if !fs.wanted(members, m) {
			continue
		}
		end := offset + int(s.member.length)
		if !s.reused {
			fs.gathered = append(fs.gathered, raw[offset:end]...)
		}
		offset = end
	}
	return fs.gathered
}

// wanted tells that a repository lacks file m.
func (fs *Framers) wanted(members [][]Small, m int) bool {
	for i, f := range fs.each {
		if f != nil && !members[i][m].reused {
			return true
		}
	}
	return false
}
