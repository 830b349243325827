package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChangedPagesAreCounted(t *testing.T) {
	write := func(dir, path string, content []byte) {
		t.Helper()
		name := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path   string
		size   int // before; 0 is no file
		now    int
		change []int // bytes
		want   int64
	}{
		{"base/1/same", 300 * page, 300 * page, nil, 0},
		{"base/1/two pages", 300 * page, 300 * page, []int{0, 1, 200*page + 5}, 2 * page},
		{"base/1/longer", 3 * page, 300 * page, nil, 297 * page},
		{"base/1/shorter", 300 * page, 129 * page, nil, 0},
		{"base/1/new", 0, 7 * page, nil, 7 * page},
		{"an odd end", 2*page + 100, 2*page + 100, []int{2*page + 99}, 100},
		{"pg_wal/000000010000000000000001", 0, 9 * page, nil, 0},
	} {
		older, newer := t.TempDir(), t.TempDir()
		content := make([]byte, max(c.size, c.now))
		if c.size > 0 {
			write(older, c.path, content[:c.size])
		}
		for _, at := range c.change {
			content[at] = 1
		}
		write(newer, c.path, content[:c.now])
		if got, err := changedBytes(older, newer); err != nil || got != c.want {
			t.Errorf("%s: %d bytes, want %d, %v", c.path, got, c.want, err)
		}
	}
}
