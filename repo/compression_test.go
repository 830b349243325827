package repo

import (
	"bytes"
	"context"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
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

func TestWALMayBeCompressedOtherwiseThanFrames(t *testing.T) {
	for _, c := range []struct {
		frames, wal string
		want        Compression
	}{
		{"zstd:9", "s2", Compression{codec: codec.Zstd, level: 9, walCodec: codec.S2, set: true}},
		{"none", "zstd", Compression{codec: codec.None, walCodec: codec.Zstd, walLevel: codec.DefaultWALLevel, set: true}},
		{"", "none", Compression{codec: codec.Zstd, level: codec.DefaultZstdLevel, walCodec: codec.None, set: true}},
		{"s2", "zstd:7", Compression{codec: codec.S2, walCodec: codec.Zstd, walLevel: 7, set: true}},
	} {
		frames, err := ParseCompression(c.frames)
		if err != nil {
			t.Fatal(err)
		}
		wal, err := ParseCompression(c.wal)
		if err != nil {
			t.Fatal(err)
		}
		got := frames.WithWAL(wal)
		if got != c.want {
			t.Errorf("%q with %q for WAL: %+v, want %+v", c.frames, c.wal, got, c.want)
		}
		source := storage.Bytes(bytes.Repeat([]byte("the same words again and again. "), 4096))
		content := NewWALContent(source)
		defer content.Close()
		made, err := content.compressed(context.Background(), got)
		if err != nil || len(made) != 1 || made[0].codec != c.want.walCodec {
			t.Errorf("%q with %q for WAL: frames %+v, %v", c.frames, c.wal, made, err)
		}
	}
	if got := (Compression{}).WithWAL(Compression{}); got != defaultCompression() {
		t.Errorf("two defaults are %+v", got)
	}
}
