package repo

import (
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Object keys. This file is the only place that knows them.

const (
	configKey   = "pgbak-repository.json"
	featuresKey = "pgbak-features.json"
)

const (
	keysPrefix    = "keys/"
	pinsPrefix    = "pins/"
	stanzasPrefix = "stanzas/"
)

// contentPrefixes are where everything but the configuration and the keys is.
func contentPrefixes() []string {
	return []string{stanzasPrefix, "backups/", "wal/", "packs/", "maps/", "tombs/"}
}

func pinKey(op ulid.ULID) string            { return pinsPrefix + op.String() }
func packsPrefix(op ulid.ULID) string       { return "packs/" + op.String() + "/" }
func mapsPrefix(op ulid.ULID) string        { return "maps/" + op.String() + "/" }
func packKey(op ulid.ULID, n uint32) string { return fmt.Sprintf("packs/%s/%08x", op, n) }
func mapKey(op ulid.ULID, n uint32) string  { return fmt.Sprintf("maps/%s/%08x", op, n) }

// Identities stand apart from the backups and the WAL of a stanza, so that
// listing the stanzas never walks over millions of segments.
func identityPrefix(stanza string) string { return stanzasPrefix + stanza + "/identity/" }
func backupsPrefix(stanza string) string  { return "backups/" + stanza + "/" }
func tombsPrefix(stanza string) string    { return "tombs/" + stanza + "/" }

// identityKey pads the number so that key order is number order.
func identityKey(stanza string, n int) string {
	return fmt.Sprintf("%s%08d", identityPrefix(stanza), n)
}

func manifestKey(stanza string, l Label) string { return backupsPrefix(stanza) + string(l) }
func tombKey(stanza string, l Label) string     { return tombsPrefix(stanza) + string(l) }

func stanzaWALPrefix(stanza string) string { return "wal/" + stanza + "/" }

func walPrefix(stanza string, identity int) string {
	return fmt.Sprintf("%s%08d/", stanzaWALPrefix(stanza), identity)
}

// What the ledger knows of a stanza's WAL besides the WAL: it stands apart, so
// that listing WAL never walks over it, and it over WAL.
func ledgerPrefix(stanza string) string       { return "ledger/" + stanza + "/" }
func stanzaEventsPrefix(stanza string) string { return ledgerPrefix(stanza) + "events/" }

func eventsPrefix(stanza string, identity int) string {
	return fmt.Sprintf("%s%08d/", stanzaEventsPrefix(stanza), identity)
}

func stanzaMarksPrefix(stanza string) string { return ledgerPrefix(stanza) + "marks/" }

func marksPrefix(stanza string, identity int) string {
	return fmt.Sprintf("%s%08d/", stanzaMarksPrefix(stanza), identity)
}

// markKey says which logs of a timeline are complete.
func markKey(stanza string, identity int, tli postgres.Timeline, first, last uint64) string {
	return fmt.Sprintf("%s%s/%08X-%08X", marksPrefix(stanza, identity), tli, first, last)
}

func historyPrefix(stanza string, identity int) string {
	return walPrefix(stanza, identity) + "history/"
}

func timelinePrefix(stanza string, identity int, tli postgres.Timeline) string {
	return walPrefix(stanza, identity) + tli.String() + "/"
}

// walKey places segments, partials and backup history files in one directory
// per 4 GiB of WAL (256 segments of 16 MiB), and timeline history files, which
// every restore reads all of, together.
func walKey(stanza string, id Identity, f postgres.WALFile) string {
	name := f.Name(id.SegmentSize)
	if f.Kind == postgres.WALHistory {
		return historyPrefix(stanza, id.Number) + name
	}
	return timelinePrefix(stanza, id.Number, f.Timeline) + name[8:16] + "/" + name
}

// maxStanzaName bounds a stanza's name, in bytes.
const maxStanzaName = 63

// CheckStanzaName refuses names that could not be a directory on every store.
func CheckStanzaName(name string) error {
	if !isStanzaName(name) {
		return fmt.Errorf("stanza name %q is not allowed: use letters, digits, '.', '_' and '-', at most 63, beginning with a letter or digit", name)
	}
	return nil
}

// isStanzaName is written out: compiling a regular expression at every start of
// archive-push costs as much as opening a repository.
func isStanzaName(name string) bool {
	if name == "" || len(name) > maxStanzaName || strings.ContainsRune("._-", rune(name[0])) || strings.HasSuffix(name, ".") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}
