package monitor

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Family is a metric: its name, its kind (counter or gauge), and its samples in the
// order in which they are written.
type Family struct {
	Name, Kind, Help string
	Samples          []Sample
}

// Sample is one value of a family; Labels are names and values in turn.
type Sample struct {
	Labels []string
	Value  float64
}

// Write writes families in Prometheus' text format.
func Write(w io.Writer, families ...Family) error {
	var text strings.Builder
	for _, f := range families {
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", f.Name, f.Help, f.Name, f.Kind)
		for _, s := range f.Samples {
			text.WriteString(f.Name)
			if labels := LabelText(s.Labels); labels != "" {
				text.WriteString("{" + labels + "}")
			}
			text.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// LabelText writes names and values in turn, values in the format's quotes.
func LabelText(labels []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+`="`+escape.Replace(labels[i+1])+`"`)
	}
	return strings.Join(pairs, ",")
}
