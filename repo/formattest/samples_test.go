package formattest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const samples = "../../testdata/repository"

// repositories are the samples of version 1 with their passphrases.
var repositories = map[string]string{"v1-plain": "", "v1-encrypted": "the passphrase of the sample repository"}

// eachSample opens every sample.
func eachSample(t *testing.T, test func(t *testing.T, r *repository)) {
	for name, passphrase := range repositories {
		t.Run(name, func(t *testing.T) {
			r, err := open(filepath.Join(samples, name), passphrase)
			if err != nil {
				t.Fatal(err)
			}
			test(t, r)
		})
	}
}

func TestSamplesHoldWhatTheListSays(t *testing.T) {
	want, err := os.ReadFile(filepath.Join(samples, "v1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	eachSample(t, func(t *testing.T, r *repository) {
		lines := append(backupLines(t, r), walLines(t, r)...)
		slices.Sort(lines)
		wanted := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
		slices.Sort(wanted)
		if !slices.Equal(lines, wanted) {
			t.Errorf("it holds\n%s\nwant\n%s", strings.Join(lines, "\n"), want)
		}
	})
}

func backupLines(t *testing.T, r *repository) (lines []string) {
	t.Helper()
	keys, err := r.keys("backups/main/")
	if err != nil {
		t.Fatal(err)
	}
	revoked := 0
	for _, key := range keys {
		label := filepath.Base(key)
		if !labelForm.MatchString(label) {
			t.Errorf("label %q", label)
		}
		m, err := r.manifest("main", label)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if m == nil {
			revoked++
			continue
		}
		files := 0
		for _, e := range m.entries {
			line, err := describe(m, e)
			if err != nil {
				t.Fatalf("%s: %s: %v", key, e.path, err)
			}
			if e.typ == 1 {
				files++
			}
			lines = append(lines, fmt.Sprintf("backup/%s/%s: %s", label, e.path, line))
		}
		if files != m.Files {
			t.Errorf("%s: %d files, its header says %d", key, files, m.Files)
		}
	}
	if revoked != 1 {
		t.Errorf("%d labels are revoked, want 1", revoked)
	}
	return lines
}

func describe(m *manifest, e entry) (string, error) {
	line := fmt.Sprintf("%o %d %s", e.mode, e.mtime, e.owner)
	switch e.typ {
	case 2:
		return "dir " + line, nil
	case 3:
		return "link " + line + " -> " + e.target, nil
	}
	data, err := m.content(e)
	return fmt.Sprintf("file %s page-errors=%v %d %08x %x", line, e.flags&8 != 0, e.size, e.crc, sha256.Sum256(data)), err
}

func walLines(t *testing.T, r *repository) (lines []string) {
	t.Helper()
	sizes, err := r.identities("main")
	if err != nil || !slices.Equal(sizes, []int64{1 << 20}) {
		t.Fatalf("identities %v, %v", sizes, err)
	}
	keys, err := r.keys("wal/main/00000001/")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		data, sum, err := r.wal(key)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		name := filepath.Base(key)
		if want := "wal/main/00000001/" + name[:8] + "/" + name[8:min(16, len(name))] + "/" + name; key != want && key != "wal/main/00000001/history/"+name {
			t.Errorf("%s stands at %s", name, key)
		}
		lines = append(lines, fmt.Sprintf("wal/%s: %d %x", name, len(data), sha256.Sum256(data)))
		if sum != nil {
			lines = append(lines, fmt.Sprintf("wal/%s/summary: timeline %d from %X to %X, %d %x", name, sum.timeline, sum.from, sum.to, len(sum.table), sha256.Sum256(sum.table)))
		}
	}
	return lines
}

// TestPacksDescribeThemselves finds every frame that a manifest uses by the
// footers alone, and checks the content ids.
func TestPacksDescribeThemselves(t *testing.T) {
	eachSample(t, func(t *testing.T, r *repository) {
		keys, err := r.keys("packs/")
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[byte]int{}
		for _, key := range keys {
			frames, err := r.footer(key)
			if err != nil {
				t.Fatal(err)
			}
			object, err := r.object(key)
			if err != nil {
				t.Fatal(err)
			}
			alone := &manifest{repository: r, Keys: map[string][]byte{frames[0].pack.operationText(): wrappedKey(object)}}
			for _, d := range frames {
				kinds[d.kind]++
				content, err := alone.open(d.frame)
				if err != nil {
					t.Fatal(err)
				}
				checkIDs(t, r, d, content)
			}
		}
		if len(kinds) != 3 {
			t.Errorf("kinds of frames: %v, want three", kinds)
		}
	})
}

func checkIDs(t *testing.T, r *repository, d described, content []byte) {
	t.Helper()
	for i, id := range d.ids {
		part := content
		if d.kind == 2 {
			part = content[:d.sizes[i]]
			content = content[d.sizes[i]:]
		}
		if got, err := r.contentID(part); err != nil || !bytes.Equal(got, id) {
			t.Errorf("content id of %s: %x, want %x (%v)", d.paths[i], got, id, err)
		}
	}
	if d.kind == 2 && len(content) > 0 {
		t.Errorf("%d bytes of a bundle belong to no member", len(content))
	}
}

// TestManifestsListAllThatTheyNeed: section 9.2.
func TestManifestsListAllThatTheyNeed(t *testing.T) {
	eachSample(t, func(t *testing.T, r *repository) {
		keys, err := r.keys("backups/main/")
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			m, err := r.manifest("main", filepath.Base(key))
			if err != nil {
				t.Fatal(err)
			}
			if m == nil {
				continue
			}
			only := &repository{dir: t.TempDir(), idAlgorithm: r.idAlgorithm, secrets: r.secrets, identity: r.identity}
			needed := []string{key}
			for _, p := range m.packs {
				needed = append(needed, p.key("packs"))
			}
			for _, p := range m.maps {
				needed = append(needed, p.key("maps"))
			}
			for _, k := range needed {
				copyObject(t, r, only, k)
			}
			alone, err := only.manifest("main", filepath.Base(key))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range alone.entries {
				if _, err := describe(alone, e); err != nil {
					t.Errorf("%s alone: %v", key, err)
				}
			}
		}
	})
}

func copyObject(t *testing.T, from, to *repository, key string) {
	t.Helper()
	data, err := from.object(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(to.dir, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSampleDoesNotOpenWithAnotherPassphrase(t *testing.T) {
	if _, err := open(filepath.Join(samples, "v1-encrypted"), "another"); err == nil {
		t.Error("it opens")
	}
}
