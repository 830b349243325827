package main

//go:generate go test -count=1 -run ^TestTheCommandReferenceIsCurrent$ -update .

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The reference is written by this test, so that neither the writer nor a
// library for it is linked into the program.

var update = flag.Bool("update", false, "write docs/commands.md instead of comparing it")

func TestTheCommandReferenceIsCurrent(t *testing.T) {
	const path = "../../docs/commands.md"
	var b strings.Builder
	b.WriteString("# Commands\n\n<!-- Written by go generate ./cmd/pgbak; do not edit. -->\n\n")
	root := (&app{}).newRoot()
	writeCommands(&b, root)
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not current (%v): run go generate ./cmd/pgbak", path, err)
	}
}

// writeCommands writes a command and those below it.
func writeCommands(b *strings.Builder, c *cobra.Command) {
	writeCommand(b, c)
	for _, below := range c.Commands() {
		if !below.Hidden {
			writeCommands(b, below)
		}
	}
}

func writeCommand(b *strings.Builder, c *cobra.Command) {
	title, text := c.CommandPath(), c.Long
	if text == "" {
		text = c.Short + "."
	}
	use := c.UseLine()
	if !c.HasParent() {
		use = "pgbak [flags] COMMAND"
	}
	fmt.Fprintf(b, "## %s\n\n%s\n\n```\n%s\n```\n\n", title, c.Short, use)
	if text != c.Short+"." {
		// Long texts indent settings and commands by two spaces; as a block
		// they keep their lines.
		fmt.Fprintf(b, "```text\n%s\n```\n\n", text)
	}
	if c.Example != "" {
		fmt.Fprintf(b, "```sh\n%s\n```\n\n", c.Example)
	}
	writeFlags(b, c.LocalNonPersistentFlags())
	if !c.HasParent() {
		b.WriteString("Flags of every command:\n\n")
		writeFlags(b, c.PersistentFlags())
	}
}

func writeFlags(b *strings.Builder, flags *pflag.FlagSet) {
	var rows []string
	flags.VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		if f.Name == "help" || f.Hidden {
			return
		}
		word := "--" + f.Name
		if name != "" {
			word += " " + name
		}
		if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |\n", strings.ReplaceAll(word, "|", `\|`), usage))
	})
	if len(rows) > 0 {
		fmt.Fprintf(b, "| flag | |\n| --- | --- |\n%s\n", strings.Join(rows, ""))
	}
}
