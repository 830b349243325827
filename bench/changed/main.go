// Command changed says how many bytes of pages differ between two data
// directories, for the CPU time per changed byte in bench/incremental.sh: by
// comparing them page by page, so that no tool's own count is believed.
//
//	changed -old DIRECTORY -new DIRECTORY
//
// Pages that only the new one has count, those that only the old one has do
// not. WAL is left out. It prints one number.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const page = 8192 // of the servers that are measured

func main() {
	older := flag.String("old", "", "data `DIRECTORY` before")
	newer := flag.String("new", "", "data `DIRECTORY` after")
	flag.Parse()
	n, err := changedBytes(*older, *newer)
	if err != nil {
		fmt.Fprintln(os.Stderr, "changed:", err)
		return
	}
	fmt.Println(n)
}

func changedBytes(older, newer string) (sum int64, err error) {
	err = filepath.WalkDir(newer, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() == "pg_wal" {
			return filepath.SkipDir
		}
		if !e.Type().IsRegular() {
			return nil
		}
		relative, err := filepath.Rel(newer, path)
		if err != nil {
			return err
		}
		n, err := changedInFile(filepath.Join(older, relative), path)
		sum += n
		return err
	})
	return sum, err
}

func changedInFile(older, newer string) (sum int64, err error) {
	now, err := os.Open(newer)
	if err != nil {
		return 0, err
	}
	defer now.Close()
	before, err := os.Open(older)
	if errors.Is(err, fs.ErrNotExist) {
		info, err := now.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	if err != nil {
		return 0, err
	}
	defer before.Close()
	const many = 128
	a, b := make([]byte, many*page), make([]byte, many*page)
	for {
		n, err := io.ReadFull(now, a)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return sum, err
		}
		if n == 0 {
			return sum, nil
		}
		had, err := io.ReadFull(before, b[:n])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return sum, err
		}
		for at := 0; at < n; at += page {
			end := min(at+page, n)
			if end > had || !bytes.Equal(a[at:end], b[at:end]) {
				sum += int64(end - at)
			}
		}
	}
}
