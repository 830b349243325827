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

	"github.com/zeebo/xxh3"
)

const samples = "../../testdata/repository"

// repositories are the samples of version 1 with their passphrases and lists.
var repositories = map[string]struct{ passphrase, list string }{
	"v1-plain":       {"", "v1.txt"},
	"v1-encrypted":   {"the passphrase of the sample repository", "v1.txt"},
	"v1-incremental": {"the passphrase of the sample repository", "v1-incremental.txt"},
}

// eachSample opens every sample.
func eachSample(t *testing.T, test func(t *testing.T, r *repository)) {
	for name, sample := range repositories {
		t.Run(name, func(t *testing.T) {
			r, err := open(filepath.Join(samples, name), sample.passphrase)
			if err != nil {
				t.Fatal(err)
			}
			test(t, r)
		})
	}
}

func TestSamplesHoldWhatTheListSays(t *testing.T) {
	eachSample(t, func(t *testing.T, r *repository) {
		want, err := os.ReadFile(filepath.Join(samples, repositories[filepath.Base(r.dir)].list))
		if err != nil {
			t.Fatal(err)
		}
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
		hashed := 0
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
				hashed += checkHashes(t, r, d, content)
			}
		}
		if len(kinds) != 3 {
			t.Errorf("kinds of frames: %v, want three", kinds)
		}
		if want := filepath.Base(r.dir) == "v1-incremental"; want != (hashed > 0) {
			t.Errorf("%d pages have hashes", hashed)
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

// checkHashes is section 7.4; it gives the number of pages.
func checkHashes(t *testing.T, r *repository, d described, content []byte) int {
	t.Helper()
	seed, err := r.pageSeed()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range d.hashes {
		page := content[uint64(i)*d.page : min(uint64(i+1)*d.page, uint64(len(content)))]
		if got := xxh3.HashSeed(page, seed); got != want {
			t.Errorf("hash of page %d of %s: %016x, want %016x", i, d.paths[0], got, want)
		}
	}
	return len(d.hashes)
}

// TestPinsNameWhatTheyResume: section 4.4.
func TestPinsNameWhatTheyResume(t *testing.T) {
	eachSample(t, func(t *testing.T, r *repository) {
		keys, err := r.keys("pins/")
		if err != nil {
			t.Fatal(err)
		}
		resumed := 0
		for _, key := range keys {
			var pin struct {
				Operation string   `json:"operation"`
				Resumes   []string `json:"resumes"`
			}
			if _, err := r.document(key, "pgbak-pin", &pin); err != nil || key != "pins/"+pin.Operation {
				t.Errorf("%s: %v", key, err)
			}
			for _, operation := range pin.Resumes {
				packs, err := r.keys("packs/" + operation + "/")
				if err != nil || len(packs) == 0 {
					t.Errorf("%s resumes %s, of which there are %d packs, %v", key, operation, len(packs), err)
				}
				resumed++
			}
		}
		if want := filepath.Base(r.dir) == "v1-incremental"; want != (resumed > 0) {
			t.Errorf("%d operations are resumed", resumed)
		}
	})
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
			only := &repository{dir: t.TempDir(), id: r.id, idAlgorithm: r.idAlgorithm, secrets: r.secrets, identity: r.identity}
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
