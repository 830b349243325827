package repo

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// realWAL is 16 MiB of frames that servers wrote: the dense first MiB of the
// sample of each major, over and over. Frames are compressed by themselves, so
// that the repetition helps no codec.
func realWAL(b *testing.B) []byte {
	b.Helper()
	var samples [][]byte
	for major := 13; major <= 18; major++ {
		file, err := os.Open(fmt.Sprintf("../testdata/postgres/wal/%d.wal.gz", major))
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		in, err := gzip.NewReader(file)
		if err != nil {
			b.Fatal(err)
		}
		sample := make([]byte, walFrameSize)
		if _, err := io.ReadFull(in, sample); err != nil {
			b.Fatal(err)
		}
		samples = append(samples, sample)
	}
	var content []byte
	for i := range 16 {
		content = append(content, samples[i%len(samples)]...)
	}
	return content
}

// cpuTime is what the process has used, in milliseconds.
func cpuTime(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// BenchmarkPutWAL archives a segment of 16 MiB from a file into one repository
// and at the same time into two, that keep their objects in memory.
func BenchmarkPutWAL(b *testing.B) {
	content := realWAL(b)
	path := filepath.Join(b.TempDir(), "wal")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	for _, passphrases := range [][]string{{""}, {"", ""}, {"", fixturePassphrase}} {
		title := fmt.Sprint(len(passphrases), " repositories")
		if passphrases[len(passphrases)-1] != "" {
			title += ", one encrypted"
		}
		b.Run(title, func(b *testing.B) {
			ctx := context.Background()
			var stanzas []*Stanza
			for _, passphrase := range passphrases {
				stanzas = append(stanzas, walStanza(b, mem.New(), passphrase))
			}
			f := mustWAL(b, "000000010000000000000001")
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				c := NewWALContent(storage.File(path, int64(len(content))))
				var puts errgroup.Group
				for _, s := range stanzas {
					puts.Go(func() error {
						_, err := s.PutWAL(ctx, s.Current(), f, c)
						return err
					})
				}
				if err := puts.Wait(); err != nil {
					b.Fatal(err)
				}
				c.Close()
				for _, s := range stanzas {
					if err := s.repo.store.Delete(ctx, walKey(s.name, s.Current(), f)); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric((cpuTime(b)-before)/float64(b.N), "cpu-ms/op")
		})
	}
}
