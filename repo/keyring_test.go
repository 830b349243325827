package repo

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func passphraseOptions(passphrase string) Options {
	return Options{Clock: testClock(), Passphrase: func() ([]byte, error) { return []byte(passphrase), nil }}
}

// copyObject puts an object of one store into another.
func copyObject(t *testing.T, from, to storage.Store, key, as string) {
	t.Helper()
	b, err := storage.ReadAll(context.Background(), from, key, 1<<20)
	if err == nil {
		err = to.Put(context.Background(), as, storage.Bytes(b), storage.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func keyOf(t *testing.T, st storage.Store) string {
	t.Helper()
	for o, err := range st.List(context.Background(), keysPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		return o.Key
	}
	t.Fatal("no key")
	return ""
}

// addPassphrase wraps the repository's keyring once more.
func addPassphrase(t *testing.T, st storage.Store, old, add string) string {
	t.Helper()
	ctx := context.Background()
	r, err := Open(ctx, st, passphraseOptions(old))
	if err != nil {
		t.Fatal(err)
	}
	id := ulid.ULID{0: 1, 15: byte(len(add))}
	if err := r.keys.put(ctx, st, r.config, id, []byte(add)); err != nil {
		t.Fatal(err)
	}
	return keysPrefix + id.String()
}

func TestOpeningAnEncryptedRepository(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	testRepository(t, base, "right")
	stranger := mem.New()
	testRepository(t, stranger, "right")
	plain := mem.New()
	testRepository(t, plain, "")
	for _, test := range []struct {
		title      string
		prepare    func(t *testing.T, st *mem.Store)
		passphrase string
		want       error
		text       string
	}{
		{"with its passphrase", nil, "right", nil, ""},
		{"with another one", nil, "wrong", ErrWrongPassphrase, "passphrase does not open"},
		{"with an empty one", nil, "", ErrWrongPassphrase, "passphrase"},
		{"with the second of two", func(t *testing.T, st *mem.Store) { addPassphrase(t, st, "right", "second") }, "second", nil, ""},
		{"with the first of two", func(t *testing.T, st *mem.Store) { addPassphrase(t, st, "right", "second") }, "right", nil, ""},
		{"with neither of two", func(t *testing.T, st *mem.Store) { addPassphrase(t, st, "right", "second") }, "third", ErrWrongPassphrase, ""},
		{"with one of two, the other's key being damaged", func(t *testing.T, st *mem.Store) {
			key := addPassphrase(t, st, "right", "second")
			if err := st.Put(ctx, key, storage.Bytes([]byte("torn")), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, "right", nil, ""},
		{"with its passphrase, the key being damaged", func(t *testing.T, st *mem.Store) {
			if err := st.Put(ctx, keyOf(t, st), storage.Bytes([]byte("torn")), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, "right", ErrDamaged, "keys/"},
		{"without any key", func(t *testing.T, st *mem.Store) {
			if err := st.Delete(ctx, keyOf(t, st)); err != nil {
				t.Fatal(err)
			}
		}, "right", ErrDamaged, "no key is there"},
		{"with only the key of another repository", func(t *testing.T, st *mem.Store) {
			if err := st.Delete(ctx, keyOf(t, st)); err != nil {
				t.Fatal(err)
			}
			copyObject(t, stranger, st, keyOf(t, stranger), keyOf(t, stranger))
		}, "right", ErrWrongPassphrase, ""},
		{"with the key of another repository in the place of its own", func(t *testing.T, st *mem.Store) {
			copyObject(t, stranger, st, keyOf(t, stranger), keyOf(t, st))
		}, "right", ErrDamaged, "it is the object"},
		{"with the configuration of another encrypted repository", func(t *testing.T, st *mem.Store) {
			copyObject(t, stranger, st, configKey, configKey)
		}, "right", ErrWrongPassphrase, ""},
		{"with the configuration of a plain repository", func(t *testing.T, st *mem.Store) {
			copyObject(t, plain, st, configKey, configKey)
		}, "right", ErrNotEncrypted, "not encrypted"},
		{"with a configuration that was changed", func(t *testing.T, st *mem.Store) {
			c, _, err := readConfig(ctx, st)
			if err != nil {
				t.Fatal(err)
			}
			c.IDAlgorithm = IDSHA256
			if err := putDocument(ctx, st, configKey, configFormat, c, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, "right", ErrDamaged, "object pgbak-repository.json is damaged: it is not the one that keys/"},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := base.Clone()
			if test.prepare != nil {
				test.prepare(t, st)
			}
			_, err := Open(ctx, st, passphraseOptions(test.passphrase))
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if test.text != "" {
				expectError(t, err, test.text)
			}
		})
	}
}

func TestPassphraseMustBeConfiguredIfAndOnlyIfTheRepositoryIsEncrypted(t *testing.T) {
	ctx := context.Background()
	plain, encrypted := mem.New(), mem.New()
	testRepository(t, plain, "")
	testRepository(t, encrypted, "right")
	if _, err := Open(ctx, plain, passphraseOptions("right")); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("plain repository with a passphrase: %v", err)
	}
	if _, err := Open(ctx, encrypted, Options{Clock: testClock()}); !errors.Is(err, ErrEncrypted) {
		t.Errorf("encrypted repository without a passphrase: %v", err)
	}
}

// TestKeyBindsFieldsOfTheConfigurationThatThisVersionDoesNotKnow: the digest is
// of the bytes that stand there, not of what this version understands of them.
func TestKeyBindsFieldsOfTheConfigurationThatThisVersionDoesNotKnow(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	keys, err := newKeyring()
	if err != nil {
		t.Fatal(err)
	}
	newer := struct {
		Config
		Shape string `json:"shape"`
	}{Config{FormatVersion: 1, ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", IDAlgorithm: IDBlake3, Encryption: EncryptionGCM, Created: time.Unix(0, 0).UTC()}, "future"}
	if err := putDocument(ctx, st, configKey, configFormat, newer, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	var c Config
	digest, err := getDocumentSum(ctx, st, configKey, configFormat, &c)
	if err != nil {
		t.Fatal(err)
	}
	putKey(t, st, keys, c.ID, digest)
	if _, err := Open(ctx, st, passphraseOptions("right")); err != nil {
		t.Error(err)
	}
}

// putKey stores a keyring as a later version would, bound to a digest.
func putKey(t *testing.T, st storage.Store, k *keyring, repository, digest string) {
	t.Helper()
	secrets, err := json.Marshal(keySecrets{Repository: repository, ConfigSHA256: digest, Recipient: k.recipient.String(),
		Identity: k.identity.String(), MetaKey: k.metaKey[:], IDKey: k.idKey[:]})
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := age.NewScryptRecipient("right")
	if err != nil {
		t.Fatal(err)
	}
	recipient.SetWorkFactor(10)
	wrapped, err := ageEncrypt(secrets, recipient)
	if err == nil {
		err = putDocument(context.Background(), st, keysPrefix+"K", keyFormat, keyDocument{ID: "K", Kind: "passphrase", Age: wrapped}, storage.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostWithoutTheReadingKeyWritesAndDoesNotCallItDamage(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t, fixturePassphrase)
	s := f.on(f.store.Clone())
	keys := *s.repo.keys
	keys.identity = nil
	s.repo.keys = &keys
	tree := makeTree(3)
	h := tree.store(t, s)
	if h.Parent == "" {
		t.Error("it found no parent")
	}
	_, err := s.PutWAL(ctx, s.Current(), mustWAL(t, "000000010000000000000020"), NewWALContent(storage.Bytes(rows(fixtureSegment, 9))))
	if err != nil {
		t.Error(err)
	}
	if err := checkBackup(s, h.Label, tree); !errors.Is(err, errNoReadingKey) || errors.Is(err, ErrDamaged) {
		t.Errorf("reading a backup: %v", err)
	}
	if _, err := readWAL(ctx, s, s.Current(), f.wal[0]); !errors.Is(err, errNoReadingKey) || errors.Is(err, ErrDamaged) {
		t.Errorf("reading WAL: %v", err)
	}
	reader := f.on(s.repo.store)
	if err := checkBackup(reader, h.Label, tree); err != nil {
		t.Errorf("with the key: %v", err)
	}
}
