package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/internal/hint"
)

// printError writes one line, and a second one where the user can act.
func (a *app) printError(err error) {
	fmt.Fprintf(a.stderr, "pgbak: %s\n", oneLine(err.Error()))
	advice := hint.Of(err)
	var usage *usageError
	if advice == "" && errors.As(err, &usage) {
		advice = fmt.Sprintf("%s --help lists the arguments and flags.", usage.command)
	}
	if advice != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", oneLine(advice))
	}
}

// oneLine keeps what servers and files say from taking the lines of a log apart.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r): // such as of a terminal
			return '?'
		}
		return r
	}, strings.Join(lines, "; "))
}

// outputFlag is the flag --output of a command.
type outputFlag struct{ format string }

func (o *outputFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.format, "output", "text", "`FORMAT` of the result: text or json")
}

func (o *outputFlag) check() error {
	if o.format != "text" && o.format != "json" {
		return &usageError{err: fmt.Errorf("output format %q is unknown: use text or json", o.format), command: "pgbak"}
	}
	return nil
}

// print writes the result v as JSON, or as text says.
func (o *outputFlag) print(a *app, v any, text func() string) error {
	if o.format == "text" {
		_, err := fmt.Fprint(a.stdout, text())
		return err
	}
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// sizeText gives bytes in the unit that a person would choose, in powers of
// 1024: "23.4MB".
func sizeText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < 4 {
		value /= 1024
		unit++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + []string{"KB", "MB", "GB", "TB", "PB"}[unit]
}

// timeText gives the zone always: a restore target is read off it.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04:05+00")
}

func durationText(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
