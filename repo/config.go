package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// FormatVersion is the repository format that this version writes. A program
// reads format 1 for ever.
const FormatVersion = 1

const (
	configFormat   = "pgbak-repository"
	featuresFormat = "pgbak-features"
)

// Config is the repository's description of itself: pgbak-repository.json,
// put once by init and never changed.
type Config struct {
	FormatVersion int       `json:"format-version"`
	ID            string    `json:"id"` // a ULID
	Created       time.Time `json:"created"`
	// IDAlgorithm makes content ids: "blake3" or "sha256"; keyed when Encryption is not "none".
	IDAlgorithm string `json:"id-algorithm"`
	// Encryption is "none" or "aes-256-gcm".
	Encryption string   `json:"encryption"`
	Features   Features `json:"features"`
	// ConditionalPut is what init found out about the store.
	ConditionalPut bool `json:"conditional-put"`
}

// Features name what a program must know before it may do an operation of
// that class. A program that does not know one refuses. Format 1 has none.
type Features struct {
	Read    []string `json:"read,omitempty"`
	Write   []string `json:"write,omitempty"`
	Collect []string `json:"collect,omitempty"`
}

// The algorithms of format 1.
const (
	EncryptionNone = "none"
	EncryptionGCM  = "aes-256-gcm"
	IDBlake3       = "blake3"
	IDSHA256       = "sha256"
)

// readConfig gives the configuration and its digest: that of the bytes as they
// stand there, so that fields which a later version adds are bound too. Both
// of its objects are asked for at once: one round trip.
func readConfig(ctx context.Context, st storage.Store) (c Config, digest string, err error) {
	var added Features
	var addedErr error
	var reads sync.WaitGroup
	reads.Go(func() { added, addedErr = readAddedFeatures(ctx, st) })
	digest, err = getDocumentSum(ctx, st, configKey, configFormat, &c)
	reads.Wait()
	if errors.Is(err, storage.ErrNotExist) {
		return c, "", hint.Wrap(fmt.Errorf("%s: %w", st.Properties().Location, ErrNotInitialized),
			"check the url in the configuration, or run 'pgbak init' to create a repository there.")
	}
	if err != nil {
		return c, "", err
	}
	if addedErr != nil {
		return c, "", addedErr
	}
	c.Features = c.Features.and(added)
	return c, digest, c.check(st.Properties().Location)
}

// readAddedFeatures reads the one object that may change: the features that a
// newer program has added since init. This version never writes it.
func readAddedFeatures(ctx context.Context, st storage.Store) (Features, error) {
	var added Features
	err := getDocument(ctx, st, featuresKey, featuresFormat, &added)
	if errors.Is(err, storage.ErrNotExist) {
		return Features{}, nil
	}
	return added, err
}

func (f Features) and(o Features) Features {
	return Features{Read: slices.Concat(f.Read, o.Read), Write: slices.Concat(f.Write, o.Write), Collect: slices.Concat(f.Collect, o.Collect)}
}

// check refuses what this program cannot read; write and collect features are
// asked where those operations begin.
func (c Config) check(location string) error {
	if c.FormatVersion > FormatVersion || c.FormatVersion < 1 {
		return newerFormat(location, fmt.Sprintf("format version %d, this program knows %d", c.FormatVersion, FormatVersion))
	}
	if len(c.Features.Read) > 0 {
		return newerFormat(location, "it needs the features "+strings.Join(c.Features.Read, ", "))
	}
	if !slices.Contains([]string{IDBlake3, IDSHA256}, c.IDAlgorithm) {
		return newerFormat(location, fmt.Sprintf("content ids by %q", c.IDAlgorithm))
	}
	if !slices.Contains([]string{EncryptionNone, EncryptionGCM}, c.Encryption) {
		return newerFormat(location, fmt.Sprintf("encryption by %q", c.Encryption))
	}
	return nil
}

// checkWrite refuses to add to a repository whose features for writing this program does not know.
func (c Config) checkWrite(location string) error {
	if len(c.Features.Write) > 0 {
		return newerFormat(location, "writing to it needs the features "+strings.Join(c.Features.Write, ", "))
	}
	return nil
}

func newerFormat(location, what string) error {
	return hint.Wrap(fmt.Errorf("%s: %w: %s", location, ErrNewerFormat, what),
		"use a newer pgbak with this repository; nothing was changed.")
}
