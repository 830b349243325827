package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// config is the configuration file. Its keys are a contract, written down in
// docs/configuration.md.
type config struct {
	Repositories []repositoryConfig `yaml:"repositories"`
	Stanzas      []stanzaConfig     `yaml:"stanzas"`
	Processes    *int               `yaml:"processes"`
	Archive      archiveConfig      `yaml:"archive"`
	Agent        agentConfig        `yaml:"agent"`

	path string
}

type stanzaConfig struct {
	Name       string `yaml:"name"`
	PGData     string `yaml:"pgdata"`
	Connection string `yaml:"connection"`
	// Primary leads to the primary of a standby, for backups from that.
	Primary string `yaml:"primary-connection"`
}

// configError marks what is wrong in the configuration, or in the flags and
// variables that choose from it.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

const (
	maxConfigSize     = 1 << 20
	maxPassphraseSize = 64 << 10
	minPassphrase     = 12 // characters
	maxProcesses      = 1024
)

// readConfig reads and checks the file at path. Its errors are configErrors
// that name the file.
func readConfig(path string) (*config, error) {
	data, err := readLimited(path, maxConfigSize)
	if err != nil {
		return nil, hint.Wrap(&configError{fmt.Errorf("configuration: %w", err)},
			"name the configuration file by --config or PGBAK_CONFIG, and make it readable for the user who runs pgbak.")
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, &configError{fmt.Errorf("configuration %s: %w", path, err)}
	}
	c.path = path
	return c, nil
}

func parseConfig(data []byte) (*config, error) {
	c := &config{}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document after a line '---'")
	}
	for i := range c.Repositories {
		c.Repositories[i].wal = c.Archive.Compression
	}
	return c, c.check()
}

var (
	unknownKey = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^line (\d+): field (.*) not found in type .*$`)
	})
	// wrongKind quotes the value, which may be a secret in the wrong place.
	wrongKind = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?s)^line (\d+): cannot unmarshal .*$`) })
)

// yamlError says in the user's words what the decoder says in Go's.
func yamlError(err error) error {
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var all []string
	unknown := false
	for _, text := range typed.Errors {
		if m := unknownKey().FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("line %s: unknown key %q", m[1], m[2])
			unknown = true
		} else if m := wrongKind().FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("line %s: the value has the wrong form", m[1])
		}
		all = append(all, text)
	}
	joined := errors.New(strings.Join(all, "; "))
	if unknown {
		return hint.Wrap(joined, "docs/configuration.md lists the keys; look for a typing error.")
	}
	return joined
}

// check refuses values that could not work, so that the mistake is found when
// the file is written and not when the first backup is needed.
func (c *config) check() error {
	if len(c.Repositories) == 0 {
		return hint.Wrap(errors.New("repositories is empty"), "add a repository with a name and a url like file:///var/lib/pgbak or s3://bucket/prefix.")
	}
	if len(c.Stanzas) == 0 {
		return hint.Wrap(errors.New("stanzas is empty"), "add a stanza with a name, pgdata and connection.")
	}
	names := map[string]bool{}
	for i, r := range c.Repositories {
		if err := r.check(); err != nil {
			return fmt.Errorf("repository %s: %w", nameOrNumber(r.Name, i), err)
		}
		if names[r.Name] {
			return fmt.Errorf("two repositories have the name %q", r.Name)
		}
		names[r.Name] = true
	}
	clear(names)
	for i, s := range c.Stanzas {
		if err := s.check(); err != nil {
			return fmt.Errorf("stanza %s: %w", nameOrNumber(s.Name, i), err)
		}
		if names[s.Name] {
			return fmt.Errorf("two stanzas have the name %q", s.Name)
		}
		names[s.Name] = true
	}
	if c.Processes != nil {
		if err := checkProcesses(*c.Processes); err != nil {
			return err
		}
	}
	return c.checkArchive()
}

func nameOrNumber(name string, i int) string {
	if name == "" {
		return fmt.Sprintf("number %d", i+1)
	}
	return fmt.Sprintf("%q", name)
}

func checkProcesses(n int) error {
	if n < 1 || n > maxProcesses {
		return fmt.Errorf("processes is %d: it must be from 1 to %d", n, maxProcesses)
	}
	return nil
}

func (s stanzaConfig) check() error {
	if s.Name == "" {
		return errors.New("name is missing")
	}
	if s.Name == allRepositories {
		return errReservedName
	}
	if err := repo.CheckStanzaName(s.Name); err != nil {
		return err
	}
	if s.PGData == "" && s.Connection != "" {
		return nil // a server whose files are not reached from here
	}
	return checkAbsolute("pgdata", s.PGData)
}

func checkAbsolute(key, path string) error {
	if path == "" {
		return fmt.Errorf("%s is missing", key)
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s %q is not an absolute path", key, path)
	}
	return nil
}

// stanza returns the stanza of the name, or the only one if name is "".
func (c *config) stanza(name string) (stanzaConfig, error) {
	var names []string
	for _, s := range c.Stanzas {
		if s.Name == name || name == "" && len(c.Stanzas) == 1 {
			return s, nil
		}
		names = append(names, s.Name)
	}
	list := strings.Join(names, ", ")
	if name == "" {
		return stanzaConfig{}, hint.Wrap(&configError{fmt.Errorf("no stanza was named, and %s configures several: %s", c.path, list)},
			"name one by --stanza or PGBAK_STANZA.")
	}
	return stanzaConfig{}, hint.Wrap(&configError{fmt.Errorf("stanza %q is not in %s", name, c.path)},
		"configured are: %s.", list)
}

// allRepositories is what --repo says for every repository; no repository and,
// lest commands be misread, no stanza may be called that.
const allRepositories = "all"

// repositories returns the repository of the name, or all if name is "" or "all".
func (c *config) repositories(name string) ([]repositoryConfig, error) {
	if name == "" || name == allRepositories {
		return c.Repositories, nil
	}
	var names []string
	for _, r := range c.Repositories {
		if r.Name == name {
			return []repositoryConfig{r}, nil
		}
		names = append(names, r.Name)
	}
	return nil, hint.Wrap(&configError{fmt.Errorf("repository %q is not in %s", name, c.path)},
		"configured are: %s.", strings.Join(names, ", "))
}

// readPassphrase reads the passphrase file without its final line end.
func readPassphrase(path string) ([]byte, error) {
	data, err := readLimited(path, maxPassphraseSize)
	if err != nil {
		return nil, &configError{fmt.Errorf("passphrase: %w", err)}
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if n := utf8.RuneCount(data); n < minPassphrase {
		return nil, hint.Wrap(&configError{fmt.Errorf("passphrase in %s has %d characters, at least %d are needed", path, n, minPassphrase)},
			"make one by: openssl rand -base64 32")
	}
	return data, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}
