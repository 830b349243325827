package postgres

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// samples is where generate.sh puts the files of real servers.
const samples = "../../testdata/postgres"

// sample reads one real file of a major; names ending in .gz are unpacked.
func sample(t testing.TB, major int, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(samples, fmt.Sprint(major), name))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return data
	}
	unpacker, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s of %d: %v", name, major, err)
	}
	if data, err = io.ReadAll(unpacker); err != nil {
		t.Fatalf("%s of %d: %v", name, major, err)
	}
	return data
}

// sampleJSON reads one file of facts.
func sampleJSON[T any](t testing.TB, major int, name string) T {
	t.Helper()
	var facts T
	if err := json.Unmarshal(sample(t, major, name), &facts); err != nil {
		t.Fatalf("%s of %d: %v", name, major, err)
	}
	return facts
}

// eachMajor runs a test for every major that has samples: all of them.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	for major := MinMajor; major <= MaxMajor; major++ {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) { test(t, major) })
	}
}

// changed is a copy of data with other bytes from offset at on.
func changed(data []byte, at int, with ...byte) []byte {
	data = bytes.Clone(data)
	copy(data[at:], with)
	return data
}

// wantError fails the test unless err says all of parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
