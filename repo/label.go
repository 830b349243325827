package repo

import (
	"fmt"
	"strings"
	"time"
)

// BackupType is full, diff or incr, in pgBackRest's words.
type BackupType string

// The types of backup. This version writes full ones and reads all.
const (
	Full         BackupType = "full"
	Differential BackupType = "diff"
	Incremental  BackupType = "incr"
)

func (t BackupType) letter() string {
	switch t {
	case Differential:
		return "D"
	case Incremental:
		return "I"
	}
	return "F"
}

// Label names a backup: the UTC time at which it began and a letter for its
// type, for example 20261120-123456F. Labels of a stanza ascend; the time in
// them is for people, no decision rests on it.
type Label string

const labelTime = "20060102-150405"

// ParseLabel refuses what is no label; a label is safe as part of a key.
func ParseLabel(s string) (Label, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("%q is not a backup label (want something like 20261120-123456F; 'pgbak info' lists them)", s)
	}
	return Label(s), nil
}

// isLabel compares the form only: a label need not be a time that there was.
func isLabel(s string) bool {
	if len(s) != len(labelTime)+1 || !strings.ContainsRune("FDI", rune(s[len(labelTime)])) {
		return false
	}
	for i := range labelTime {
		if i == len("20060102") {
			if s[i] != '-' {
				return false
			}
		} else if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// newLabel makes a label from now that is later than every label in taken,
// so that a clock that went back does not disturb the order.
func newLabel(now time.Time, typ BackupType, taken []Label) Label {
	stamp := now.UTC().Format(labelTime)
	for _, l := range taken {
		if len(l) > len(labelTime) && string(l[:len(labelTime)]) >= stamp {
			if t, err := time.Parse(labelTime, string(l[:len(labelTime)])); err == nil {
				stamp = t.Add(time.Second).Format(labelTime)
			}
		}
	}
	return Label(stamp + typ.letter())
}
