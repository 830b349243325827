package archive

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// filled is a queue with segments 2 to 5 and a prefetcher that has ended.
func filled(t *testing.T) *recoveryOf {
	t.Helper()
	r := newRecovery(t, run(1, 1, 6)...)
	r.mustGet(t, walFileOf(1))
	end := r.prefetch(t)
	r.holds(t, run(1, 2, 5)...)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *recoveryOf) queued(t *testing.T, f postgres.WALFile) *queued {
	t.Helper()
	q, err := r.queue.find(f)
	if err != nil || q == nil {
		t.Fatalf("%v is not in the queue (%v)", f, err)
	}
	return q
}

// TestWhatIsTornStaleOrForeignIsNeverServed spoils the queued segment 2 in every
// way; it must come whole from the repository, and what was spoiled must be gone.
func TestWhatIsTornStaleOrForeignIsNeverServed(t *testing.T) {
	flip := func(at int64) func(*testing.T, *recoveryOf, string) {
		return func(t *testing.T, _ *recoveryOf, path string) { flipByte(t, path, at) }
	}
	spoilt := map[string]func(t *testing.T, r *recoveryOf, path string){
		"the first byte": flip(0), "the system identifier": flip(25), "a byte in the middle": flip(segmentSize / 2), "the last byte": flip(segmentSize - 1),
		"cut":     func(t *testing.T, _ *recoveryOf, path string) { must(t, os.Truncate(path, segmentSize-1)) },
		"emptied": func(t *testing.T, _ *recoveryOf, path string) { must(t, os.Truncate(path, 0)) },
		"longer":  func(t *testing.T, _ *recoveryOf, path string) { must(t, os.Truncate(path, segmentSize+1)) },
		"zeros": func(t *testing.T, _ *recoveryOf, path string) {
			must(t, os.WriteFile(path, make([]byte, segmentSize), 0o600))
		},
		"its end 0": func(t *testing.T, _ *recoveryOf, path string) {
			must(t, os.Truncate(path, 4096))
			must(t, os.Truncate(path, segmentSize))
		},
		"too old": func(t *testing.T, r *recoveryOf, _ string) { r.pass(maxPrefetchAge + time.Minute) },
		"to come": func(t *testing.T, r *recoveryOf, _ string) { r.pass(-time.Hour) },
		"a link": func(t *testing.T, r *recoveryOf, path string) {
			other := r.queued(t, walFileOf(3)).path
			must(t, os.Remove(path))
			must(t, os.Symlink(other, path))
		},
		"a pipe": func(t *testing.T, _ *recoveryOf, path string) {
			must(t, os.Remove(path))
			must(t, syscall.Mkfifo(path, 0o600))
		},
		"directory": func(t *testing.T, _ *recoveryOf, path string) {
			must(t, os.Remove(path))
			must(t, os.MkdirAll(path+"/x", 0o700))
		},
		"another segment under its whole name": func(t *testing.T, r *recoveryOf, path string) {
			must(t, os.Rename(r.queued(t, walFileOf(3)).path, path))
		},
		"another segment with that one's checksum": func(t *testing.T, r *recoveryOf, path string) {
			three := r.queued(t, walFileOf(3))
			must(t, os.Remove(path))
			must(t, os.Rename(three.path, filepath.Join(r.queue.dir, walFileOf(2).Name(segmentSize)+"-"+three.sum)))
		},
		"of another recovery": func(t *testing.T, r *recoveryOf, path string) {
			other := r.newQueue(t, t.TempDir())
			p, err := other.place(t.Context(), walFileOf(2))
			must(t, err)
			foreign := segment(repo.Identity{SystemID: 5, Major: 17, SegmentSize: segmentSize}, walFileOf(2))
			must(t, p.put(func(w io.Writer) error { _, err := w.Write(foreign); return err }))
			files, err := other.files()
			must(t, err)
			must(t, os.Remove(path))
			must(t, os.Rename(files[0].path, filepath.Join(r.queue.dir, filepath.Base(files[0].path))))
		},
		"of another cluster, with a checksum that is right": func(t *testing.T, r *recoveryOf, path string) {
			must(t, os.Remove(path))
			p, err := r.queue.place(t.Context(), walFileOf(2))
			must(t, err)
			foreign := segment(repo.Identity{SystemID: 5, Major: 17, SegmentSize: segmentSize}, walFileOf(2))
			must(t, p.put(func(w io.Writer) error { _, err := w.Write(foreign); return err }))
			p.leave()
		},
	}
	for title, spoil := range spoilt {
		t.Run(title, func(t *testing.T) {
			r := filled(t)
			spoil(t, r, r.queued(t, walFileOf(2)).path)
			before := r.gets(walFileOf(2))
			ahead, warnings := r.mustGet(t, walFileOf(2))
			if ahead || r.gets(walFileOf(2)) != before+1 {
				t.Errorf("served ahead: %v", ahead)
			}
			quiet := title == "too old" || title == "to come"
			if quiet != (len(warnings) == 0) || !quiet && !strings.Contains(warnings[0], "segment in the queue") {
				t.Errorf("warnings %q", warnings)
			}
			if q, err := r.queue.find(walFileOf(2)); q != nil || err != nil {
				t.Errorf("it is still there: %v, %v", q, err)
			}
		})
	}
}

func TestAQueueThatCannotBeUsedIsAWarning(t *testing.T) {
	r := filled(t)
	must(t, os.RemoveAll(r.queue.dir))
	must(t, os.WriteFile(r.queue.dir, nil, 0o600))
	if ahead, warnings := r.mustGet(t, walFileOf(2)); ahead || len(warnings) != 1 || !strings.Contains(warnings[0], "the spool cannot be used") {
		t.Errorf("ahead %v, warnings %q", ahead, warnings)
	}
	if _, err := NewPrefetchQueue(r.spool, Recovery{Directory: "relative", SegmentSize: segmentSize}, 1, r.clock); err == nil {
		t.Error("a queue for a relative directory")
	}
	if _, err := NewPrefetchQueue(r.spool, Recovery{Directory: "/data", SegmentSize: 5}, 1, r.clock); err == nil {
		t.Error("a queue of segments that cannot be")
	}
}

func TestAFullSpoolKeepsNothingFromRecovery(t *testing.T) {
	r := newRecovery(t, run(1, 1, 6)...)
	r.spool = openSpool(t, smallFileSystem(t, 3*segmentSize/2))
	r.queue = r.newQueue(t, r.dir)
	r.mustGet(t, walFileOf(1))
	end := r.prefetch(t)
	eventually(t, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.trouble) == 0 {
			return os.ErrNotExist
		}
		return nil
	})
	for n := uint64(2); n <= 6; n++ {
		r.mustGet(t, walFileOf(n))
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

func FuzzPrefetchQueue(f *testing.F) {
	f.Add("000000010000000000000002-00000000000000000000000000000000", []byte("x"), "000000010000000000000002")
	f.Add("asked", []byte{0}, "0000000100000000000000FF")
	f.Add("000000010000000000000002.fetching", []byte{}, "")
	f.Fuzz(func(t *testing.T, name string, content []byte, asked string) {
		if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." || len(name) > 200 {
			t.Skip()
		}
		r := newRecovery(t, walFileOf(2))
		must(t, os.WriteFile(filepath.Join(r.queue.dir, askedName), []byte(asked), 0o600))
		must(t, os.WriteFile(filepath.Join(r.queue.dir, name), content, 0o600))
		if ahead, _ := r.mustGet(t, walFileOf(2)); ahead {
			t.Errorf("%q was served", name)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	b := make([]byte, 1)
	_, err = file.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x10
	_, err = file.WriteAt(b, at)
	must(t, err)
}
