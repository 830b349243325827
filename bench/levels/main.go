// Command levels compresses pieces of the files of a directory one by one and
// prints what the whole would take: how the default level and the size of
// frames were chosen, and what they cost in stored bytes.
//
//	go run ./bench/levels -dir /var/tmp/pgbak-bench/data/base
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgbak/pgbak/repo/codec"
)

func main() {
	dir := flag.String("dir", "", "`DIRECTORY` whose files are compressed")
	every := flag.Int("every", 4, "compress one piece in `N`")
	flag.Parse()
	fmt.Println("| piece KiB | level | stored MB | MB/s |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, size := range []int{128 << 10, 1 << 20} {
		for level := 1; level <= 5; level++ {
			if err := measure(*dir, size, level, *every); err != nil {
				fmt.Fprintln(os.Stderr, "levels:", err)
				return
			}
		}
	}
}

// measure compresses one piece in every and prints a row, scaled up to all.
func measure(dir string, size, level, every int) error {
	enc, err := codec.NewEncoder(codec.Zstd, level)
	if err != nil {
		return err
	}
	p := pieces{enc: enc, raw: make([]byte, size), out: make([]byte, 0, 2*size), every: every}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return p.file(path)
	})
	if err != nil {
		return err
	}
	fmt.Printf("| %d | %d | %.1f | %.0f |\n", size>>10, level, float64(p.stored)*float64(p.total)/float64(p.plain)/1e6,
		float64(p.plain)/1e6/p.elapsed.Seconds())
	return nil
}

// pieces counts what was compressed; sizes in bytes.
type pieces struct {
	enc                  codec.Encoder
	raw, out             []byte
	every, n             int
	total, plain, stored int64
	elapsed              time.Duration
}

func (p *pieces) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		n, err := io.ReadFull(f, p.raw)
		if n > 0 {
			if err := p.piece(p.raw[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *pieces) piece(raw []byte) error {
	p.total += int64(len(raw))
	p.n++
	if p.n%p.every != 0 {
		return nil
	}
	began := time.Now()
	out, err := p.enc.Encode(p.out, raw)
	p.elapsed += time.Since(began)
	p.plain += int64(len(raw))
	p.stored += int64(min(len(out), len(raw)))
	return err
}
