package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// keyring holds the secrets of an encrypted repository; nil in a plain one.
//
// They are three, so that a host which only archives and backs up can do
// without the one that reads backups: metadata (maps, manifests, footers) is
// sealed with metaKey, content ids are keyed with idKey, and every operation's
// random data key is wrapped for recipient, which only identity unwraps.
type keyring struct {
	recipient *age.X25519Recipient
	identity  *age.X25519Identity // nil on a host that only writes
	metaKey   [32]byte
	idKey     [32]byte
}

const keyFormat = "pgbak-key"

// keyDocument is the object keys/<id>: one wrapping of the keyring.
type keyDocument struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // "passphrase"
	Created time.Time `json:"created"`
	Age     []byte    `json:"age"` // an age file (age-encryption.org/v1) around a keySecrets document
}

// keySecrets is the plain content of an age file under keys/.
type keySecrets struct {
	Repository string `json:"repository"`
	// ConfigSHA256 binds the public description of the repository, so that who
	// can write to the store cannot, say, turn encryption off.
	ConfigSHA256 string `json:"config-sha256"`
	Recipient    string `json:"recipient"`
	Identity     string `json:"identity,omitempty"`
	MetaKey      []byte `json:"meta-key"`
	IDKey        []byte `json:"id-key"`
}

// scryptWorkFactor is log2 of age's scrypt cost. archive-push pays it for every
// segment, so it is below age's interactive default of 18; a passphrase file
// with 128 random bits needs no stretching at all.
const scryptWorkFactor = 14

// maxScryptWorkFactor bounds what a hostile key file can make a reader compute.
const maxScryptWorkFactor = 20

func newKeyring() (*keyring, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("generate repository key: %w", err)
	}
	k := &keyring{identity: identity, recipient: identity.Recipient()}
	if _, err := rand.Read(k.metaKey[:]); err != nil {
		return nil, fmt.Errorf("generate repository key: %w", err)
	}
	if _, err := rand.Read(k.idKey[:]); err != nil {
		return nil, fmt.Errorf("generate repository key: %w", err)
	}
	return k, nil
}

// configDigest is what keySecrets.ConfigSHA256 binds: the checksum that the
// configuration's document will have.
func configDigest(c Config) (string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode repository configuration: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// put wraps the keyring with the passphrase and stores it.
func (k *keyring) put(ctx context.Context, st storage.Store, c Config, id ulid.ULID, passphrase []byte) error {
	digest, err := configDigest(c)
	if err != nil {
		return err
	}
	secrets, err := json.Marshal(keySecrets{Repository: c.ID, ConfigSHA256: digest, Recipient: k.recipient.String(),
		Identity: k.identity.String(), MetaKey: k.metaKey[:], IDKey: k.idKey[:]})
	if err != nil {
		return fmt.Errorf("encode repository key: %w", err)
	}
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return fmt.Errorf("wrap repository key: %w", err)
	}
	recipient.SetWorkFactor(scryptWorkFactor)
	wrapped, err := ageEncrypt(secrets, recipient)
	if err != nil {
		return fmt.Errorf("wrap repository key: %w", err)
	}
	doc := keyDocument{ID: id.String(), Kind: "passphrase", Created: c.Created, Age: wrapped}
	return putDocument(ctx, st, keysPrefix+id.String(), keyFormat, doc, storage.PutOptions{IfAbsent: true})
}

// openKeyring tries the passphrase on the key that Create made, which has the
// repository's id as its name, and on every other key when that is of no use.
func openKeyring(ctx context.Context, st storage.Store, c Config, digest string, passphrase []byte) (*keyring, error) {
	location := st.Properties().Location
	var broken error
	found, first := false, ""
	if _, err := ulid.ParseStrict(c.ID); err == nil { // what else stands there is not to be part of a key
		first = keysPrefix + c.ID
		k, err := readKey(ctx, st, first, c, digest, passphrase)
		switch {
		case err == nil:
			return k, nil
		case errors.Is(err, ErrDamaged):
			broken = err
		case !errors.Is(err, ErrWrongPassphrase) && !isAbsent(err):
			return nil, err
		}
		found = !isAbsent(err)
	}
	for obj, err := range st.List(ctx, keysPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", keysPrefix, err)
		}
		if obj.Key == first {
			continue
		}
		found = true
		k, err := readKey(ctx, st, obj.Key, c, digest, passphrase)
		if err == nil {
			return k, nil
		}
		if !errors.Is(err, ErrWrongPassphrase) {
			broken = errors.Join(broken, err)
		}
	}
	if broken != nil {
		return nil, broken
	}
	if !found {
		return nil, damagedf(keysPrefix, "", "the repository is encrypted, but no key is there")
	}
	return nil, hint.Wrap(fmt.Errorf("%s: %w", location, ErrWrongPassphrase),
		"check passphrase-file in the configuration; without the right passphrase the repository cannot be read.")
}

func readKey(ctx context.Context, st storage.Store, key string, c Config, configSum string, passphrase []byte) (*keyring, error) {
	var doc keyDocument
	if err := getDocument(ctx, st, key, keyFormat, &doc); err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(string(passphrase))
	if err != nil { // it is empty
		return nil, fmt.Errorf("unwrap %s: %w: %w", key, ErrWrongPassphrase, err)
	}
	identity.SetMaxWorkFactor(maxScryptWorkFactor)
	plain, err := ageDecrypt(doc.Age, identity)
	var noMatch *age.NoIdentityMatchError
	if errors.As(err, &noMatch) {
		return nil, fmt.Errorf("unwrap %s: %w", key, ErrWrongPassphrase)
	}
	if err != nil {
		return nil, damaged(key, "wrapped key", err)
	}
	var s keySecrets
	if err := json.Unmarshal(plain, &s); err != nil {
		return nil, damaged(key, "secrets", err)
	}
	if s.Repository != c.ID {
		// Left by an init that lost a race, or copied here by hand: not this repository's.
		return nil, fmt.Errorf("unwrap %s: it belongs to repository %s: %w", key, s.Repository, ErrWrongPassphrase)
	}
	if s.ConfigSHA256 != configSum {
		return nil, damagedf(configKey, "", "it is not the one that %s was made for", key)
	}
	return s.keyring(key)
}

func (s keySecrets) keyring(key string) (*keyring, error) {
	k := &keyring{}
	var err error
	if k.recipient, err = age.ParseX25519Recipient(s.Recipient); err != nil {
		return nil, damaged(key, "recipient", err)
	}
	if s.Identity != "" {
		if k.identity, err = age.ParseX25519Identity(s.Identity); err != nil {
			return nil, damaged(key, "identity", err)
		}
	}
	if copy(k.metaKey[:], s.MetaKey) != 32 || copy(k.idKey[:], s.IDKey) != 32 {
		return nil, damagedf(key, "secrets", "a key is too short")
	}
	return k, nil
}

// wrapDataKey makes the wrapped form of an operation's data key that stands in
// pack headers, pins, manifests and WAL objects.
func (k *keyring) wrapDataKey(dataKey *[32]byte) ([]byte, error) {
	return ageEncrypt(dataKey[:], k.recipient)
}

// errNoReadingKey is no damage: this host may write and not read.
var errNoReadingKey = errors.New("this host holds no key that reads backups and WAL")

func (k *keyring) unwrapDataKey(wrapped []byte) (*[32]byte, error) {
	if k.identity == nil {
		return nil, errNoReadingKey
	}
	plain, err := ageDecrypt(wrapped, k.identity)
	if err != nil {
		return nil, err
	}
	var key [32]byte
	if copy(key[:], plain) != 32 || len(plain) != 32 {
		return nil, errors.New("wrapped data key has the wrong length")
	}
	return &key, nil
}

// maxAgeFile bounds an age file with one recipient around one of our keys.
const maxAgeFile = 64 << 10

func ageEncrypt(plain []byte, r age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func ageDecrypt(wrapped []byte, id age.Identity) ([]byte, error) {
	if len(wrapped) > maxAgeFile {
		return nil, fmt.Errorf("wrapped key of %d bytes is too long", len(wrapped))
	}
	r, err := age.Decrypt(bytes.NewReader(wrapped), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxAgeFile))
}
