package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo"
)

const contractConfig = `repositories:
  - name: local
    url: file:///var/lib/pgbak
    compression: zstd
    encryption: {passphrase-file: /etc/pgbak/passphrase}
stanzas:
  - name: main
    pgdata: /var/lib/postgresql/17/main
    connection: "host=/var/run/postgresql port=5432 user=postgres dbname=postgres"
processes: 4
`

func TestTheConfigurationOfTheDocumentationIsUnderstood(t *testing.T) {
	c, err := parseConfig([]byte(contractConfig))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Repositories[0].place()
	if err != nil || p.directory != "/var/lib/pgbak" || c.Repositories[0].Encryption.PassphraseFile != "/etc/pgbak/passphrase" {
		t.Errorf("repository %+v in %s, %v", c.Repositories[0], p.directory, err)
	}
	if s := c.Stanzas[0]; s.Name != "main" || s.PGData != "/var/lib/postgresql/17/main" || !strings.HasPrefix(s.Connection, "host=/var") {
		t.Errorf("stanza %+v", s)
	}
	if *c.Processes != 4 {
		t.Errorf("processes %d", *c.Processes)
	}
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil || !strings.Contains(string(text), contractConfig) {
		t.Errorf("docs/configuration.md does not have it (%v)", err)
	}
}

func TestConfigurationsThatCouldNotWorkAreRefused(t *testing.T) {
	for _, c := range []struct {
		title, old, new string
		want            string
	}{
		{"an unknown key at the top", "processes:", "procs:", `line 10: unknown key "procs"`},
		{"an unknown key of a repository", "compression:", "compresion:", `line 4: unknown key "compresion"`},
		{"an unknown key of encryption", "passphrase-file:", "passphrase:", `line 5: unknown key "passphrase"`},
		{"a key that is given twice", "processes: 4", "processes: 4\nprocesses: 5", `line 11`},
		{"a list where a word belongs", "name: main", "name: [main]", "line 7"},
		{"no YAML", "repositories:", "repositories: }", "did not find expected node content"},
		{"a second document", "processes: 4", "---\nprocesses: 4", "second document"},
		{"a repository without a name", "name: local", "name: ''", "repository number 1: name is missing"},
		{"a repository without a url", "url: file:///var/lib/pgbak", "url:", `repository "local": url is missing`},
		{"a relative url", "file:///var/lib/pgbak", "file:var/lib/pgbak", "file:///DIRECTORY"},
		{"a url with a host", "file:///var", "file://var", "file:///DIRECTORY"},
		{"the root directory as repository", "file:///var/lib/pgbak", "file:///", "root directory"},
		{"a path instead of a url", "file:///var", "/var", `unknown scheme ""`},
		{"a repository that is called all", "name: local", "name: all", `repository "all": the name "all" is reserved`},
		{"a stanza that is called all", "name: main", "name: all", `stanza "all": the name "all" is reserved`},
		{"another scheme", "file:///var/lib/pgbak", "ftp://host/x", `unknown scheme "ftp"`},
		{"unknown compression", "zstd", "gzip", `"gzip"`},
		{"a compression level out of range", "zstd", "zstd:99", `"zstd:99"`},
		{"a relative passphrase file", "/etc/pgbak/passphrase", "passphrase", "encryption.passphrase-file"},
		{"a stanza with a bad name", "name: main", "name: ma/in", "ma/in"},
		{"a stanza with neither pgdata nor connection", contractConfig, "repositories: [{name: a, url: file:///x}]\nstanzas: [{name: main}]", `stanza "main": pgdata is missing`},
		{"a relative pgdata", "pgdata: /var", "pgdata: var", "not an absolute path"},
		{"no processes", "processes: 4", "processes: 0", "processes is 0"},
		{"too many processes", "processes: 4", "processes: 1025", "processes is 1025"},
		{"no repositories", contractConfig, "stanzas: [{name: main, pgdata: /x}]", "repositories is empty"},
		{"no stanzas", contractConfig, "repositories: [{name: local, url: file:///x}]", "stanzas is empty"},
		{"an empty file", contractConfig, "", "repositories is empty"},
		{"two repositories of one name", contractConfig, "repositories: [{name: a, url: file:///x}, {name: a, url: file:///y}]\nstanzas: [{name: main, pgdata: /x}]", `two repositories have the name "a"`},
		{"two stanzas of one name", contractConfig, "repositories: [{name: a, url: file:///x}]\nstanzas: [{name: s, pgdata: /x}, {name: s, pgdata: /y}]", `two stanzas have the name "s"`},
	} {
		t.Run(c.title, func(t *testing.T) {
			text := strings.Replace(contractConfig, c.old, c.new, 1)
			if text == contractConfig {
				t.Fatal("the case changes nothing")
			}
			path := filepath.Join(t.TempDir(), "pgbak.yaml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readConfig(path)
			if err == nil || generalCode(err) != exitConfiguration {
				t.Fatalf("error %v", err)
			}
			contains(t, err.Error(), path, c.want)
		})
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(contractConfig))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("repositories: [{name: a, url: \"file:///%zz\"}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err == nil && (len(c.Repositories) == 0 || len(c.Stanzas) == 0) {
			t.Error("a configuration without repository or stanza was accepted")
		}
	})
}

func TestThePassphraseIsTheFileWithoutItsLineEnd(t *testing.T) {
	for content, want := range map[string]string{
		"correct horse battery\n":     "correct horse battery",
		"correct horse battery\r\n":   "correct horse battery",
		"correct horse battery":       "correct horse battery",
		" correct horse battery \n\n": " correct horse battery \n",
		"пароль пароль\n":             "пароль пароль",
		"short\n":                     "",
		"\n":                          "",
		"":                            "",
	} {
		path := filepath.Join(t.TempDir(), "passphrase")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassphrase(path)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}

func TestFlagsComeBeforeVariablesAndVariablesBeforeTheFile(t *testing.T) {
	variables := map[string]string{}
	a := &app{getenv: func(name string) string { return variables[name] }}
	c, err := parseConfig([]byte(contractConfig))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, want int) {
		t.Helper()
		if n, err := a.processes(c); err != nil || n != want {
			t.Errorf("%s: %d, %v, want %d", what, n, err, want)
		}
	}
	expect("the file", 4)
	variables["PGBAK_PROCESSES"] = "5"
	expect("the variable", 5)
	a.flags.processes = 6
	expect("the flag", 6)
	a.flags.processes, variables["PGBAK_PROCESSES"] = 0, "many"
	if _, err := a.processes(c); generalCode(err) != exitConfiguration {
		t.Errorf("PGBAK_PROCESSES=many: %v", err)
	}
	variables["PGBAK_CONFIG"] = "/variable.yaml"
	if path, _ := a.configPath(); path != "/variable.yaml" {
		t.Errorf("configuration %s", path)
	}
	a.flags.config = "/flag.yaml"
	if path, _ := a.configPath(); path != "/flag.yaml" {
		t.Errorf("configuration %s", path)
	}
}

func TestArchiveCompressionGoesBeforeTheRepositorys(t *testing.T) {
	c, err := parseConfig([]byte(`repositories:
  - {name: first, url: "file:///backup/first", compression: "zstd:9"}
  - {name: second, url: "file:///backup/second"}
stanzas: [{name: main, pgdata: /data}]
archive: {compression: s2}
`))
	if err != nil {
		t.Fatal(err)
	}
	s2, err := repo.ParseCompression("s2")
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"zstd:9", ""} {
		own, err := repo.ParseCompression(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Repositories[i].compression(); err != nil || got != own.WithWAL(s2) {
			t.Errorf("%s: %+v, %v", c.Repositories[i].Name, got, err)
		}
	}
}
