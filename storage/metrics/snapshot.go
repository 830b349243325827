package metrics

import (
	"fmt"
	"strings"
	"time"
)

// Snapshot is what has been counted, by kind of operation.
type Snapshot struct {
	Put    Operation `json:"put"`
	Get    Operation `json:"get"`
	Stat   Operation `json:"stat"`
	List   Operation `json:"list"`
	Delete Operation `json:"delete"`
}

// Operation is what has been counted of one kind of operation. An error is
// counted in one class only.
type Operation struct {
	Calls int64 `json:"calls"` // with those that failed
	// Bytes of Puts that succeeded, and all that were read by Gets.
	Bytes int64 `json:"bytes,omitempty"`

	Absent    int64 `json:"absent,omitempty"`    // storage.ErrNotExist: an answer rather than a fault
	Exists    int64 `json:"exists,omitempty"`    // storage.ErrExist: likewise
	Transient int64 `json:"transient,omitempty"` // storage.ErrTransient without ErrThrottled
	Throttled int64 `json:"throttled,omitempty"` // storage.ErrThrottled
	Other     int64 `json:"other,omitempty"`     // every other error, also a cancelled context

	// Time is the sum over all calls, and Longest the longest of them, in
	// nanoseconds in JSON. A Get ends when its reader is closed and a List with
	// the last object, so that both contain the time of who reads.
	Time    time.Duration `json:"time_ns"`
	Longest time.Duration `json:"longest_ns"`
}

// Errors is how many calls failed; absences and taken keys are answers.
func (o Operation) Errors() int64 { return o.Transient + o.Throttled + o.Other }

// String is for a line in a log: the kinds of which there were any, as in
// "put 21 (612.3 MB, 3 errors, longest 1.2s), stat 4 (longest 8ms)".
func (s Snapshot) String() string {
	var parts []string
	for _, kind := range []struct {
		name string
		Operation
	}{{"put", s.Put}, {"get", s.Get}, {"stat", s.Stat}, {"list", s.List}, {"delete", s.Delete}} {
		if kind.Calls > 0 {
			parts = append(parts, kind.name+" "+kind.Operation.String())
		}
	}
	if len(parts) == 0 {
		return "no operations"
	}
	return strings.Join(parts, ", ")
}

// String is the part of one kind: "21 (612.3 MB, 3 errors, longest 1.2s)".
func (o Operation) String() string {
	var details []string
	if o.Bytes > 0 {
		details = append(details, fmt.Sprintf("%.1f MB", float64(o.Bytes)/1e6))
	}
	for _, class := range []struct {
		n    int64
		name string
	}{{o.Absent, "absent"}, {o.Exists, "taken"}, {o.Errors(), "errors"}, {o.Throttled, "throttled"}} {
		if class.n > 0 {
			details = append(details, fmt.Sprintf("%d %s", class.n, class.name))
		}
	}
	details = append(details, fmt.Sprintf("longest %s", o.Longest.Round(time.Millisecond)))
	return fmt.Sprintf("%d (%s)", o.Calls, strings.Join(details, ", "))
}
