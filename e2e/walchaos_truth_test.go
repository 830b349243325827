package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// walTruth is the test's own record of what happened to WAL. It is written by
// two shell scripts that stand between PostgreSQL and pgbak and know nothing of
// a repository: one keeps a copy of every file for which archive_command has ended with
// 0, the other writes down what restore_command has ended with and what it gave.
//
// Below the directory of each node: done/ has the acknowledged files, tried/ those that
// were only tried, or waited when the server was lost; pushed and fetched are the
// logs; lies says what must never be.
type walTruth struct {
	dir       string
	push, get string // scripts
}

const pushScript = `#!/bin/sh
# PATH; runs in the data directory
node=${PWD%%/*} name=${1##*/}
cp "$1" "$node/tried/.$name" && mv "$node/tried/.$name" "$node/tried/$name" || exit 1
%[1]s --config "$node/pgbak.yaml" archive-push "$1"
status=$?
echo "$name $status" >>"$node/pushed"
[ $status -gt 125 ] && status=1 # or PostgreSQL starts its archiver anew, after ten seconds
[ $status = 0 ] || exit $status
if [ -e "$node/done/$name" ] && ! cmp -s "$node/done/$name" "$node/tried/$name"; then
	echo "$node: another content of $name was acknowledged before" >>"$node/lies"
fi
mv "$node/tried/$name" "$node/done/$name"
`

const getScript = `#!/bin/sh
# NAME PATH; runs in the data directory
node=${PWD%%/*} had=no
for file in %[2]s/n*/done/"$1"; do [ -e "$file" ] && had=yes; done
%[1]s --config "$node/pgbak.yaml" archive-get "$1" "$2"
status=$?
sum=-
[ $status = 0 ] && sum=$(sha256sum <"$2")
echo "$1 $status $had ${sum%%%% *}" >>"$node/fetched"
exit $status
`

func newWALTruth(t *testing.T, dir, program string) *walTruth {
	t.Helper()
	w := &walTruth{dir: dir, push: filepath.Join(dir, "push.sh"), get: filepath.Join(dir, "get.sh")}
	for path, script := range map[string]string{w.push: pushScript, w.get: getScript} {
		// Only one of them needs the directory.
		text := strings.ReplaceAll(script, "%[2]s", dir)
		if err := os.WriteFile(path, []byte(fmt.Sprintf(text, program)), 0o755); err != nil {
			t.Fatal(err)
		}
		pgtest.GiveToServer(t, path)
	}
	return w
}

func (w *walTruth) pushCommand() string { return w.push + " %p" }
func (w *walTruth) getCommand() string  { return w.get + ` %f "%p"` }

// acknowledged is how many files have been acknowledged, by whatever node.
func (w *walTruth) acknowledged(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "n*", "done", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// refused is how many runs of archive-push have failed.
func (w *walTruth) refused(t *testing.T) int {
	t.Helper()
	n := 0
	for _, line := range w.log(t, "pushed") {
		if line[1] != "0" {
			n++
		}
	}
	return n
}

// lies gives what the scripts found.
func (w *walTruth) lies(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "n*", "lies"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// harvest copies what a node that does not run, or rests, has not been told to be
// archived: a batch or a receiver may have stored it all the same.
func (w *walTruth) harvest(t *testing.T, n *chaosNode) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.data, "pg_wal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		if exists(filepath.Join(n.dir, "done", name)) {
			continue
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// A segment that only waits for its turn has the bytes of another position, as its first page says.
		if len(name) == 24 && err == nil && binary.LittleEndian.Uint64(data[8:16]) != segmentNumber(t, name)<<20 {
			continue
		}
		if tried := filepath.Join(n.dir, "tried", name); err == nil && !exists(tried) {
			err = os.WriteFile(tried, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// walContents is what is known of the files of one name.
type walContents struct {
	acknowledged map[[32]byte]string // by content, the path of a copy
	known        map[[32]byte]string // the same of those that were only tried
}

// contents reads all copies.
func (w *walTruth) contents(t *testing.T) map[string]*walContents {
	t.Helper()
	all := map[string]*walContents{}
	for _, kind := range []string{"done", "tried"} {
		files, err := filepath.Glob(filepath.Join(w.dir, "n*", kind, "0*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := all[filepath.Base(path)]
			if f == nil {
				f = &walContents{map[[32]byte]string{}, map[[32]byte]string{}}
				all[filepath.Base(path)] = f
			}
			sum := sha256.Sum256(data)
			f.known[sum] = path
			if kind == "done" {
				f.acknowledged[sum] = path
			}
		}
	}
	return all
}

// log reads one of the logs of all nodes, a slice of fields for each line.
func (w *walTruth) log(t *testing.T, name string) [][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "n*", name))
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			lines = append(lines, strings.Fields(line))
		}
	}
	return lines
}
