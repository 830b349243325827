package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// maxSettings bounds what is read of postgresql.auto.conf.
const maxSettings = 16 << 20

// oldRecoverySetting matches a line that would mix with ours. Setting names are
// case-insensitive, and the '=' may be left out.
var oldRecoverySetting = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^\s*(restore_command|recovery_target\w*)(\s|=)`)
})

var oldArchiveMode = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)^\s*archive_mode(\s|=)`) })

// configure writes the recovery settings into postgresql.auto.conf, which a
// server reads last, and the recovery.signal that makes it obey them. All of
// PostgreSQL 13 to 18 work that way.
func (r *run) configure() error {
	old, err := r.readSettings()
	if err != nil {
		return err
	}
	settings := recoverySettings(r.plan, r.o, old, r.o.Clock())
	if err := r.writeOwn(ownSettingsFile, bytes.NewReader(settings)); err != nil {
		return err
	}
	return r.writeOwn(signalFile, strings.NewReader(""))
}

func (r *run) readSettings() ([]byte, error) {
	f, err := r.main().root.Open(ownSettingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ownSettingsFile, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ownSettingsFile, err)
	}
	if len(data) > maxSettings {
		return nil, fmt.Errorf("%s has more than %d bytes", ownSettingsFile, maxSettings)
	}
	return data, nil
}

// writeOwn writes a file that the restore itself makes, with the owner of the
// cluster's files, and makes its content durable.
func (r *run) writeOwn(name string, content io.Reader) error {
	at := r.main()
	f, err := at.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return r.fillOwn(f, at, name, name, content)
}

// fillOwn writes the content of a file that the restore itself makes, rel in its
// place and called name in errors, with the owner of the cluster's files, makes it
// durable and closes it.
func (r *run) fillOwn(f *os.File, at *openPlace, rel, name string, content io.Reader) error {
	_, err := io.Copy(f, content)
	if err == nil {
		own := repo.File{Mode: 0o600, Owner: r.plan.tree.ownFiles.Owner, Group: r.plan.tree.ownFiles.Group}
		if !r.plan.tree.private {
			own.Mode = 0o640
		}
		err = r.dress(f, at, rel, own)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// setting is one line of postgresql.auto.conf.
type setting struct{ name, value string }

// recoverySettings appends the settings of this recovery to the old file and
// takes those of earlier ones out of force.
func recoverySettings(p *Plan, o Options, old []byte, now time.Time) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(old) {
		if oldRecoverySetting().Match(line) || o.ArchiveModeOff && oldArchiveMode().Match(line) {
			out.WriteString("# before the restore: ")
		}
		out.Write(line)
	}
	if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "# written by pgbak restore of backup %s at %s\n", p.Backup.Label, formatTime(now.Truncate(time.Second)))
	for _, s := range p.settings(o) {
		fmt.Fprintf(&out, "%s = %s\n", s.name, quoteSetting(s.value))
	}
	return out.Bytes()
}

// targetSettings are the settings of which at most one may have a value.
func targetSettings() map[TargetType]string {
	return map[TargetType]string{TargetImmediate: "recovery_target", TargetLSN: "recovery_target_lsn",
		TargetName: "recovery_target_name", TargetTime: "recovery_target_time", TargetXID: "recovery_target_xid"}
}

// settings lists what recovery has to be told. The targets that are not wanted
// are set to nothing, and before the one that is: a target left over in
// postgresql.conf, which may lie where we cannot see it, would otherwise make
// the server stop at the wrong place or refuse two targets.
func (p *Plan) settings(o Options) []setting {
	list := []setting{{"restore_command", o.RestoreCommand}}
	for _, t := range []TargetType{TargetImmediate, TargetLSN, TargetName, TargetTime, TargetXID} {
		if t != p.Target.Type {
			list = append(list, setting{targetSettings()[t], ""})
		}
	}
	if name, ok := targetSettings()[p.Target.Type]; ok {
		value := p.Target.Value
		if p.Target.Type == TargetImmediate {
			value = string(TargetImmediate)
		}
		list = append(list, setting{name, value}, setting{"recovery_target_inclusive", onOff(!p.Target.Exclusive)})
	}
	list = append(list, setting{"recovery_target_timeline", p.Target.Timeline})
	if p.Target.Action != "" {
		list = append(list, setting{"recovery_target_action", p.Target.Action})
	}
	if o.ArchiveModeOff {
		list = append(list, setting{"archive_mode", "off"})
	}
	return list
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// quoteSetting quotes a value for postgresql.conf: quotes are doubled, and
// backslashes too, since GUC_scanstr (guc-file.l) reads escapes.
func quoteSetting(s string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}
