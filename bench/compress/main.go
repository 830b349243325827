// Command compress does with WAL segments the one thing that archive-push
// cannot do without: it reads and compresses them, as archive-push does by default, in memory, and
// stores nothing. bench/run.sh measures it like a tool, so that what a call of
// archive-push costs can be compared with it.
//
//	compress -processes N FILE...
//
// The files come one after the other, the frames of each N at a time. It prints
// "compressed" when all are, and else what went wrong on standard error.
package main

import (
	"flag"
	"fmt"
	"os"
	"sync"

	"github.com/pgbak/pgbak/repo/codec"
)

// As package repo has them for WAL.
const frame = 1 << 20 // bytes

func main() {
	processes := flag.Int("processes", 1, "compress `N` frames at a time")
	flag.Parse()
	for _, path := range flag.Args() {
		content, err := os.ReadFile(path)
		if err == nil {
			err = compress(content, *processes)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "compress: %s: %v\n", path, err)
			return
		}
	}
	fmt.Println("compressed")
}

func compress(content []byte, processes int) error {
	starts := make(chan int, len(content)/frame+1)
	for at := 0; at < len(content); at += frame {
		starts <- at
	}
	close(starts)
	errs := make([]error, processes)
	var running sync.WaitGroup
	for i := range processes {
		running.Go(func() { errs[i] = work(content, starts) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func work(content []byte, starts <-chan int) error {
	enc, err := codec.NewWALEncoder(codec.Zstd, codec.DefaultWALLevel)
	if err != nil {
		return err
	}
	var out []byte
	for at := range starts {
		if out, err = enc.Encode(out, content[at:min(at+frame, len(content))]); err != nil {
			return err
		}
	}
	return nil
}
