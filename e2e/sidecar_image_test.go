//go:build sidecar

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// entrypoint does what that of PostgreSQL's official image does for a first start.
const entrypoint = `#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	(umask 077 && printf %s "$POSTGRES_PASSWORD" > /tmp/password)
	initdb -D "$PGDATA" -U postgres --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256
	rm /tmp/password
	echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql "$@"
`

// image is a container image of one layer, in the form that docker save writes.
type image struct {
	layer bytes.Buffer
	w     *tar.Writer
	has   map[string]bool
}

// serverImage writes an image with a server of the test kit, pgbak and the few programs
// that the example calls, made of files of this machine: no registry is asked.
func serverImage(t *testing.T, major int, name, path string) {
	t.Helper()
	i := &image{has: map[string]bool{}}
	i.w = tar.NewWriter(&i.layer)
	server := filepath.Dir(pgtest.BinDir(t, major))
	i.add(t, "usr/local/pgsql", server)
	for _, dir := range []string{"tmp", "run", "var/run", "var/lib", "etc"} {
		i.put(t, &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	i.file(t, "entrypoint", 0o755, []byte(entrypoint))
	i.file(t, "etc/passwd", 0o644, []byte("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n"))
	i.file(t, "etc/group", 0o644, []byte("root:x:0:\npostgres:x:999:\n"))
	programs := map[string]string{"usr/local/bin/pgbak": pgtest.BuildPgbak(t)}
	for _, p := range []string{"sh", "mkdir", "rm", "ls", "touch", "id"} {
		found, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		programs["bin/"+p] = found
	}
	for in, from := range programs {
		i.add(t, in, from)
		i.libraries(t, from, "")
	}
	i.libraries(t, filepath.Join(server, "bin/postgres"), server)
	i.libraries(t, filepath.Join(server, "bin/initdb"), server)
	if err := os.WriteFile(path, i.bytes(t, name), 0o644); err != nil {
		t.Fatal(err)
	}
}

// libraries adds what the loader would take from outside of a directory.
func (i *image) libraries(t *testing.T, program, outside string) {
	t.Helper()
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("not a dynamic")) {
		t.Fatalf("ldd %s: %v\n%s", program, err, out)
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") && (outside == "" || !strings.HasPrefix(word, outside)) && !strings.HasSuffix(word, ":") {
			i.add(t, strings.TrimPrefix(word, "/"), word)
		}
	}
}

// add puts a file, or a directory with all that is in it, under a name; links are
// followed.
func (i *image) add(t *testing.T, name, from string) {
	t.Helper()
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(name, rel)
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.IsDir() {
			i.put(t, &tar.Header{Typeflag: tar.TypeDir, Name: at, Mode: 0o755}, nil)
			return nil
		}
		content, err := os.ReadFile(path)
		if err == nil {
			i.file(t, at, int64(info.Mode().Perm()|0o444), content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (i *image) file(t *testing.T, name string, mode int64, content []byte) {
	t.Helper()
	i.put(t, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

func (i *image) put(t *testing.T, h *tar.Header, content []byte) {
	t.Helper()
	if i.has[h.Name] {
		return
	}
	i.has[h.Name] = true
	writeTar(t, i.w, h, content)
}

func writeTar(t *testing.T, w *tar.Writer, h *tar.Header, content []byte) {
	t.Helper()
	err := w.WriteHeader(h)
	if err == nil {
		_, err = w.Write(content)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (i *image) bytes(t *testing.T, name string) []byte {
	t.Helper()
	if err := i.w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(i.layer.Bytes()))
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/entrypoint"}, "StopSignal": "SIGINT",
			"Env": []string{"PATH=/usr/local/bin:/usr/local/pgsql/bin:/bin"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
		"history": []map[string]any{{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"config.json", config}, {"layer.tar", i.layer.Bytes()}, {"manifest.json", manifest}} {
		writeTar(t, w, &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}, f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}
