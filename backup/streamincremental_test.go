package backup

import (
	"math/rand/v2"
	"testing"

	"github.com/pgbak/pgbak/repo"
)

// TestCutOfAnIncrementalFile compares the windows with what is said of each page.
func TestCutOfAnIncrementalFile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		length := int64(rng.IntN(100))
		fresh := length
		if length > 0 && rng.IntN(2) == 0 {
			fresh = rng.Int64N(length)
		}
		sent := map[int64]bool{}
		var blocks []uint32
		for page := range length {
			if rng.IntN(6) == 0 {
				blocks, sent[page] = append(blocks, uint32(page)), true
			}
		}
		windows, last := map[int64]changedWindow{}, int64(-1)
		for _, w := range cut(blocks, fresh, length) {
			if w.number <= last || w.sent|w.zero == 0 || w.sent&w.zero != 0 {
				t.Fatalf("window %+v after %d", w, last)
			}
			windows[w.number], last = w, w.number
		}
		for page := range (length + 15) / 16 * 16 {
			w, k := windows[page/repo.PagesPerFrame], int(page%repo.PagesPerFrame)
			if w.sent.Has(k) != sent[page] || w.zero.Has(k) != (!sent[page] && page >= fresh && page < length) {
				t.Fatalf("page %d of %d, sent %v, new from %d: %+v", page, length, blocks, fresh, w)
			}
		}
	}
}

func TestWhatAStreamLeavesOut(t *testing.T) {
	source := &tarSource{exclude: excluder{user: []string{"base/7", "log/"}}}
	for path, want := range map[string]bool{
		"base/7": true, "base/7/1234": true, "base/70/1234": false, "base": false,
		"log": false, "log/x": true, "log/x/y": true,
		"pg_wal": false, "pg_wal/archive_status": false, "pg_wal/archive_status/x.done": true, "pg_wal/000000010000000000000001": true,
		"pg_replslot/a/state": true, "base/5/pgsql_tmp/x": true, "postmaster.pid": true, "global/pg_control": true, "global/1260": false,
	} {
		if got := source.excluded(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}
