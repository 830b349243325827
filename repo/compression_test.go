package repo

import (
	"bytes"
	"context"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestTheConfiguredCompressionIsTheOneUsed(t *testing.T) {
	raw := bytes.Repeat([]byte("the same words again and again. "), 4096)
	for text, want := range map[string]codec.ID{"": codec.Zstd, "zstd": codec.Zstd, "zstd:9": codec.Zstd, "s2": codec.S2, "none": codec.None} {
		t.Run("compression "+text, func(t *testing.T) {
			c, err := ParseCompression(text)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Create(context.Background(), mem.New(), Options{Clock: testClock(), Compression: c})
			if err != nil {
				t.Fatal(err)
			}
			framer, err := r.NewFramer()
			if err != nil {
				t.Fatal(err)
			}
			_, w, err := framer.Window(context.Background(), nil, raw, "base/1/1", 0, testPage, nil)
			if err != nil {
				t.Fatal(err)
			}
			if w.fresh.codec != want {
				t.Errorf("frames are written by %s, want %s", w.fresh.codec, want)
			}
		})
	}
	for _, text := range []string{"zstd:", "zstd:0", "zstd:20", "zstd:03", "lz4", "none:1", "s2:2", ":3"} {
		if _, err := ParseCompression(text); err == nil {
			t.Errorf("compression %q is accepted", text)
		}
	}
}
