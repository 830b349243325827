package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/lookfirst"
)

// Options say how a repository is opened. Clock is required.
type Options struct {
	Compression Compression
	// Passphrase is read when the repository is encrypted; nil when the
	// configuration asks for no encryption.
	Passphrase func() ([]byte, error)
	// Clock names things and fills "created" fields; no decision rests on it.
	Clock func() time.Time
	// Random is for names and keys; nil is crypto/rand.
	Random io.Reader
}

// Compression is how new frames and WAL are compressed; what is read says
// itself how it was written. The zero value is the default, ParseCompression("").
type Compression struct {
	codec    codec.ID // of frames
	level    int
	walCodec codec.ID
	walLevel int
	set      bool
}

func defaultCompression() Compression {
	return Compression{codec: codec.Zstd, level: codec.DefaultZstdLevel, walCodec: codec.Zstd, walLevel: codec.DefaultWALLevel, set: true}
}

// forFrames is what matters of the setting for frames: two that differ in WAL
// alone are one.
func (c Compression) forFrames() Compression {
	return Compression{codec: c.codec, level: c.level, set: true}
}

// forWAL is what matters of the setting for WAL.
func (c Compression) forWAL() Compression {
	return Compression{walCodec: c.walCodec, walLevel: c.walLevel, set: true}
}

// ofWAL is forWAL of a setting that may be the zero value.
func (c Compression) ofWAL() Compression {
	return Options{Compression: c}.withDefaults().Compression.forWAL()
}

// WithWAL is c for frames and other for WAL.
func (c Compression) WithWAL(other Compression) Compression {
	c = Options{Compression: c}.withDefaults().Compression
	w := Options{Compression: other}.withDefaults().Compression.forWAL()
	c.walCodec, c.walLevel = w.walCodec, w.walLevel
	return c
}

// ParseCompression reads the configuration's "zstd", "zstd:LEVEL", "s2" or "none".
func ParseCompression(s string) (Compression, error) {
	name, level, hasLevel := strings.Cut(s, ":")
	switch {
	case name == "" && !hasLevel, name == "zstd" && !hasLevel:
		return defaultCompression(), nil
	case name == "zstd":
		var n int
		if _, err := fmt.Sscanf(level, "%d", &n); err != nil || fmt.Sprint(n) != level || n < 1 || n > 19 {
			return Compression{}, fmt.Errorf("compression %q: the level must be a number from 1 to 19", s)
		}
		return Compression{codec: codec.Zstd, level: n, walCodec: codec.Zstd, walLevel: n, set: true}, nil
	case name == "s2" && !hasLevel:
		return Compression{codec: codec.S2, walCodec: codec.S2, set: true}, nil
	case name == "none" && !hasLevel:
		return Compression{codec: codec.None, walCodec: codec.None, set: true}, nil
	}
	return Compression{}, fmt.Errorf("compression %q is unknown: use zstd, zstd:LEVEL, s2 or none", s)
}

func (o Options) withDefaults() Options {
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if !o.Compression.set {
		o.Compression = defaultCompression()
	}
	return o
}

// Repository is an opened repository. It is safe for concurrent use.
type Repository struct {
	store  storage.Store
	config Config
	keys   *keyring
	o      Options
}

// Create makes a repository in an empty place, or opens the one that is there
// when it was made with the same settings.
func Create(ctx context.Context, st storage.Store, o Options) (*Repository, error) {
	o = o.withDefaults()
	_, _, err := readConfig(ctx, st)
	if err == nil {
		return Open(ctx, st, o)
	}
	if !errors.Is(err, ErrNotInitialized) {
		return nil, err
	}
	if err := refuseRemains(ctx, st); err != nil {
		if _, _, now := readConfig(ctx, st); now == nil {
			return Open(ctx, st, o) // another init was quicker: what looked like remains is its work
		}
		return nil, err
	}
	id, err := ulid.New(ulid.Timestamp(o.Clock()), o.Random)
	if err != nil {
		return nil, fmt.Errorf("make a repository id: %w", err)
	}
	c := Config{FormatVersion: FormatVersion, ID: id.String(), Created: o.Clock().UTC().Truncate(time.Second),
		IDAlgorithm: IDBlake3, Encryption: EncryptionNone, ConditionalPut: st.Properties().ConditionalPut}
	if o.Passphrase != nil {
		c.Encryption = EncryptionGCM
		if err := createKeys(ctx, st, c, id, o); err != nil {
			return nil, err
		}
	}
	// The configuration is the commit point: keys before it belong to no repository until it is there.
	err = putDocument(ctx, st, configKey, configFormat, c, storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return nil, fmt.Errorf("create repository: %w", err)
	}
	return Open(ctx, st, o)
}

// refuseRemains makes sure that no repository stands here that has only lost
// its configuration: a new one over it would hide its keys and its backups.
// Keys alone may be there, of an init that was interrupted.
func refuseRemains(ctx context.Context, st storage.Store) error {
	for _, prefix := range contentPrefixes() {
		for obj, err := range st.List(ctx, prefix, "") {
			if err != nil {
				return fmt.Errorf("look for remains of a repository: %w", err)
			}
			return hint.Wrap(fmt.Errorf("%s has lost its %s, but %s is there: a new repository is not made over it", st.Properties().Location, configKey, obj.Key),
				"bring the lost object back from a copy of the repository, or use an empty place.")
		}
	}
	return nil
}

func createKeys(ctx context.Context, st storage.Store, c Config, id ulid.ULID, o Options) error {
	passphrase, err := o.Passphrase()
	if err != nil {
		return err
	}
	keys, err := newKeyring()
	if err != nil {
		return err
	}
	if err := keys.put(ctx, st, c, id, passphrase); err != nil {
		return fmt.Errorf("create repository: %w", err)
	}
	return nil
}

// Open opens a repository for reading and writing.
func Open(ctx context.Context, st storage.Store, o Options) (*Repository, error) {
	o = o.withDefaults()
	c, digest, err := readConfig(ctx, st)
	if err != nil {
		return nil, err
	}
	if !c.ConditionalPut && st.Properties().ConditionalPut {
		// The driver's word against what init has seen.
		st = lookfirst.New(st)
	}
	r := &Repository{store: st, config: c, o: o}
	location := st.Properties().Location
	switch {
	case c.Encryption == EncryptionNone && o.Passphrase == nil:
		return r, nil
	case c.Encryption == EncryptionNone:
		return nil, hint.Wrap(fmt.Errorf("%s: %w", location, ErrNotEncrypted),
			"encryption is decided when a repository is created: remove 'encryption' from the configuration, or use a new repository.")
	case o.Passphrase == nil:
		return nil, hint.Wrap(fmt.Errorf("%s: %w", location, ErrEncrypted),
			"add 'encryption: {passphrase-file: FILE}' to the repository in the configuration.")
	}
	passphrase, err := o.Passphrase()
	if err != nil {
		return nil, err
	}
	if r.keys, err = openKeyring(ctx, st, c, digest, passphrase); err != nil {
		return nil, err
	}
	return r, nil
}

// Config describes the repository.
func (r *Repository) Config() Config { return r.config }

// Store is where the repository lives.
func (r *Repository) Store() storage.Store { return r.store }

// Stanzas lists the names of the stanzas in order.
func (r *Repository) Stanzas(ctx context.Context) ([]string, error) {
	var names []string
	for obj, err := range r.store.List(ctx, stanzasPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list stanzas: %w", err)
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(obj.Key, stanzasPrefix), "/")
		if strings.HasPrefix(rest, "identity/") && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// newOperation makes the name of a run that writes.
func (r *Repository) newOperation() (ulid.ULID, error) {
	op, err := ulid.New(ulid.Timestamp(r.o.Clock()), r.o.Random)
	if err != nil {
		return op, fmt.Errorf("make an operation id: %w", err)
	}
	return op, nil
}

func (r *Repository) hasher() (*contentHasher, error) {
	return newContentHasher(r.config.IDAlgorithm, r.keys)
}
