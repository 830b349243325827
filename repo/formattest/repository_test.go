package formattest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
)

// repository is a directory of objects.
type repository struct {
	dir         string
	id          string
	idAlgorithm string
	secrets     *secrets // nil in a plain repository
	identity    age.Identity
}

// secrets are the content of an age file of section 4.2.
type secrets struct {
	Repository string `json:"repository"`
	Config     string `json:"config-sha256"`
	Identity   string `json:"identity"`
	MetaKey    []byte `json:"meta-key"`
	IDKey      []byte `json:"id-key"`
}

func (r *repository) object(key string) ([]byte, error) {
	return os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(key)))
}

// keys lists the keys that begin with prefix, which ends in a slash.
func (r *repository) keys(prefix string) (keys []string, err error) {
	err = filepath.WalkDir(filepath.Join(r.dir, filepath.FromSlash(prefix)), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".pgbak-tmp-") {
			return err
		}
		key, err := filepath.Rel(r.dir, path)
		keys = append(keys, filepath.ToSlash(key))
		return err
	})
	slices.Sort(keys)
	return keys, err
}

// document is section 4; it gives the checksum of the body.
func (r *repository) document(key, format string, body any) (sum string, err error) {
	data, err := r.object(key)
	if err != nil {
		return "", err
	}
	var d struct {
		Format string          `json:"format"`
		Key    string          `json:"key"`
		Sum    string          `json:"sha256"`
		Body   json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return "", err
	}
	digest := sha256.Sum256(d.Body)
	if d.Format != format || d.Key != key || d.Sum != hex.EncodeToString(digest[:]) {
		return "", damage("document %s", key)
	}
	return d.Sum, json.Unmarshal(d.Body, body)
}

// open is sections 4.1 and 4.2.
func open(dir, passphrase string) (*repository, error) {
	r := &repository{dir: dir}
	var config struct {
		Version     int    `json:"format-version"`
		ID          string `json:"id"`
		IDAlgorithm string `json:"id-algorithm"`
		Encryption  string `json:"encryption"`
		Features    struct {
			Read []string `json:"read"`
		} `json:"features"`
	}
	sum, err := r.document("pgbak-repository.json", "pgbak-repository", &config)
	if err != nil {
		return nil, err
	}
	if config.Version != 1 || len(config.Features.Read) > 0 {
		return nil, errors.New("newer format")
	}
	r.id, r.idAlgorithm = config.ID, config.IDAlgorithm
	if config.Encryption == "none" {
		return r, nil
	}
	keys, err := r.keys("keys/")
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		s, err := r.unlock(key, passphrase)
		if err != nil || s.Repository != config.ID {
			continue
		}
		if s.Config != sum {
			return nil, damage("the description was changed")
		}
		r.secrets = s
		r.identity, err = age.ParseX25519Identity(s.Identity)
		return r, err
	}
	return nil, errors.New("the passphrase opens no key")
}

func (r *repository) unlock(key, passphrase string) (*secrets, error) {
	var doc struct {
		Age []byte `json:"age"`
	}
	if _, err := r.document(key, "pgbak-key", &doc); err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(20)
	plain, err := ageDecrypt(doc.Age, identity)
	if err != nil {
		return nil, err
	}
	var s secrets
	return &s, json.Unmarshal(plain, &s)
}

func ageDecrypt(file []byte, identity age.Identity) ([]byte, error) {
	in, err := age.Decrypt(bytes.NewReader(file), identity)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(in)
}

// unwrap opens a wrapped data key; there is none in a plain repository.
func (r *repository) unwrap(wrapped []byte) ([]byte, error) {
	if r.secrets == nil {
		return nil, nil
	}
	return ageDecrypt(wrapped, r.identity)
}

var labelForm = regexp.MustCompile(`^\d{8}-\d{6}[FDI]$`)

// identities is section 4.3: the segment size of each.
func (r *repository) identities(stanza string) (segmentSizes []int64, err error) {
	keys, err := r.keys("stanzas/" + stanza + "/identity/")
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		var id struct {
			Number  int   `json:"number"`
			Segment int64 `json:"wal-segment-size"`
		}
		if _, err := r.document(key, "pgbak-identity", &id); err != nil {
			return nil, err
		}
		if id.Number != i+1 {
			return nil, damage("identity %d is missing", i+1)
		}
		segmentSizes = append(segmentSizes, id.Segment)
	}
	return segmentSizes, nil
}
