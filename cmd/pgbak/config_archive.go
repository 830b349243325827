package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgbak/pgbak/repo"
)

// archiveConfig is the section archive: how WAL goes in and out.
type archiveConfig struct {
	// Processes is how many WAL files are pushed or fetched at the same time.
	Processes *int `yaml:"processes"`
	// Spool is a directory outside of every data directory. With it archive-push
	// works in batches and archive-get fetches ahead.
	Spool       string `yaml:"spool"`
	Compression string `yaml:"compression"`
	// QueueMax is how much WAL may wait on the server before it is dropped; "" is without bound.
	QueueMax string `yaml:"queue-max"`
	// Prefetch is how much WAL archive-get holds ready.
	Prefetch string `yaml:"prefetch"`
}

// agentConfig is the section agent: the resident process that archive-push and
// archive-get hand their work to.
type agentConfig struct {
	Socket string `yaml:"socket"`
	// WhenAbsent is "error" (default) or "fallback": work without the agent.
	WhenAbsent string `yaml:"when-absent"`
	// Listen is HOST:PORT for health, readiness and metrics over HTTP; "" is none.
	Listen string `yaml:"listen"`
}

const (
	defaultPrefetch = 128 << 20 // bytes
	maxSocketPath   = 107       // bytes; sockaddr_un has room for 108 with the final zero

	whenAbsentError    = "error"
	whenAbsentFallback = "fallback"
)

// archiveSettings are the parsed section archive.
type archiveSettings struct {
	processes int    // 0 is not set
	spool     string // "" is none
	queueMax  int64  // bytes; 0 is without bound
	prefetch  int64  // bytes
}

func (c archiveConfig) parse() (archiveSettings, error) {
	s := archiveSettings{spool: c.Spool, prefetch: defaultPrefetch}
	if c.Processes != nil {
		if err := checkProcesses(*c.Processes); err != nil {
			return s, fmt.Errorf("archive.%w", err)
		}
		s.processes = *c.Processes
	}
	if c.Spool != "" {
		if err := checkAbsolute("archive.spool", c.Spool); err != nil {
			return s, err
		}
	}
	if c.Compression != "" {
		if _, err := repo.ParseCompression(c.Compression); err != nil {
			return s, fmt.Errorf("archive.compression: %w", err)
		}
	}
	if c.QueueMax != "" && c.Spool == "" {
		return s, errors.New("archive.queue-max needs archive.spool, where it is recorded what was dropped")
	}
	for _, size := range []struct {
		key, text string
		value     *int64
	}{{"queue-max", c.QueueMax, &s.queueMax}, {"prefetch", c.Prefetch, &s.prefetch}} {
		if size.text == "" {
			continue
		}
		n, err := parseSize(size.text)
		if err != nil {
			return s, fmt.Errorf("archive.%s: %w", size.key, err)
		}
		*size.value = n
	}
	return s, nil
}

func (c agentConfig) check() error {
	if c.Socket == "" {
		if c.WhenAbsent != "" || c.Listen != "" {
			return errors.New("agent.socket is missing")
		}
		return nil
	}
	if err := checkAbsolute("agent.socket", c.Socket); err != nil {
		return err
	}
	if len(c.Socket) > maxSocketPath {
		return fmt.Errorf("agent.socket has %d bytes, a socket's path may have %d", len(c.Socket), maxSocketPath)
	}
	switch c.WhenAbsent {
	case "", whenAbsentError, whenAbsentFallback:
	default:
		return fmt.Errorf("agent.when-absent %q is unknown: use %s or %s", c.WhenAbsent, whenAbsentError, whenAbsentFallback)
	}
	if c.Listen == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("agent.listen %q is not HOST:PORT", c.Listen)
	}
	return nil
}

// checkArchive refuses a spool where PostgreSQL or a copy of the data directory
// would meet it.
func (c *config) checkArchive() error {
	s, err := c.Archive.parse()
	if err != nil {
		return err
	}
	for _, stanza := range c.Stanzas {
		if s.spool != "" && stanza.PGData != "" && isBelow(s.spool, stanza.PGData) {
			return fmt.Errorf("archive.spool %s is in the data directory of stanza %q: it must be outside", s.spool, stanza.Name)
		}
	}
	return c.Agent.check()
}

// isBelow tells whether path is dir or in it, by their names.
func isBelow(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// parseSize reads a number of bytes such as 128MiB, 64GiB or 500GB.
func parseSize(text string) (int64, error) {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}} {
		digits, found := strings.CutSuffix(text, unit.name)
		if !found {
			continue
		}
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n > 0 && n <= (1<<60)/unit.bytes {
			return n * unit.bytes, nil
		}
	}
	return 0, fmt.Errorf("%.40q is not a size like 128MiB or 64GB", text)
}
