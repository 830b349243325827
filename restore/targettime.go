package restore

import (
	"fmt"
	"strings"
	"time"
)

// The forms in which a target's date and time are taken, without the zone.
// Fractions of a second are read whether the layout has them or not.
func timeLayouts() []string {
	return []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}
}

// zoneLayouts are the numeric offsets, PostgreSQL's short form among them.
func zoneLayouts() []string { return []string{"Z07:00", "Z0700", "Z07", "Z07:00:00"} }

// parseTime reads "2026-11-20 12:34:56.5+00", with 'T' or a space in the
// middle and as zone an offset, "Z", "UTC" or a name of the zone database
// behind a space. Without a zone it reads the time in the given one, and the
// note names it.
func parseTime(value string, zone *time.Location) (t time.Time, note string, err error) {
	s := strings.TrimSpace(value)
	if len(s) > 10 && (s[10] == 'T' || s[10] == 't') {
		s = s[:10] + " " + s[11:]
	}
	t, err = parseWithOffset(s)
	if err == nil {
		return t, "", checkTime(value, t)
	}
	local, loc := s, zone
	if i := strings.LastIndexByte(s, ' '); i > 0 && strings.IndexFunc(s[i:], isLetter) > 0 {
		if loc, err = loadZone(s[i+1:]); err != nil {
			return time.Time{}, "", fmt.Errorf("time %q: %w", value, err)
		}
		local = strings.TrimSpace(s[:i])
	}
	t, err = parseInZone(local, loc)
	if err != nil {
		return time.Time{}, "", fmt.Errorf("time %q: %w", value, err)
	}
	if local == s {
		note = fmt.Sprintf("time %q names no zone; it was read in %s, as %s", value, zoneName(t), formatTime(t))
	}
	return t, note, checkTime(value, t)
}

func isLetter(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }

func parseWithOffset(s string) (time.Time, error) {
	if strings.HasSuffix(s, "z") {
		s = s[:len(s)-1] + "Z"
	}
	for _, layout := range timeLayouts()[:2] {
		for _, zone := range zoneLayouts() {
			for _, gap := range []string{"", " "} {
				if t, err := time.Parse(layout+gap+zone, s); err == nil {
					return t, nil
				}
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q has no offset from UTC", s)
}

// loadZone finds a zone by name. "Local" is refused: it means another moment
// on another machine.
func loadZone(name string) (*time.Location, error) {
	if strings.EqualFold(name, "utc") || strings.EqualFold(name, "gmt") {
		return time.UTC, nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("zone %q is unknown: use an offset like +01:00, UTC, or a name like Europe/Berlin", name)
	}
	return loc, nil
}

// parseInZone reads a wall-clock time and refuses one that the zone's clocks
// skipped or showed twice: PITR to the wrong hour is worse than a question.
func parseInZone(s string, loc *time.Location) (time.Time, error) {
	for _, layout := range timeLayouts() {
		wall, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		moments := momentsOf(wall, loc)
		switch len(moments) {
		case 1:
			return moments[0], nil
		case 0:
			return time.Time{}, fmt.Errorf("the clocks of %s never showed it: give the offset from UTC", loc)
		default:
			return time.Time{}, fmt.Errorf("the clocks of %s showed it twice (%s and %s): give the offset from UTC",
				loc, moments[0].Format("-07:00"), moments[1].Format("-07:00"))
		}
	}
	return time.Time{}, fmt.Errorf("it is not a time: use the form 2026-11-20 12:34:56+00")
}

// momentsOf finds when the clocks of loc showed the wall-clock time. The
// offsets in force a day before and a day after are all that can apply, since
// no zone changes its clocks twice within two days.
func momentsOf(wall time.Time, loc *time.Location) []time.Time {
	var found []time.Time
	for _, near := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, offset := wall.Add(near).In(loc).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		shows := t.Format(time.DateTime) == wall.Format(time.DateTime)
		if shows && (len(found) == 0 || !found[0].Equal(t)) {
			found = append(found, t)
		}
	}
	return found
}

// checkTime refuses what recovery_target_time cannot hold.
func checkTime(value string, t time.Time) error {
	if t.Nanosecond()%int(time.Microsecond) != 0 {
		return fmt.Errorf("time %q is finer than PostgreSQL's microseconds", value)
	}
	if t.Year() < 1970 || t.Year() > 9999 {
		return fmt.Errorf("time %q: the year must be from 1970 to 9999", value)
	}
	return nil
}

// zoneName names the zone that was in force at t, "Europe/Berlin (+01:00)".
// The machine's own zone is often nameless; then the offset has to do.
func zoneName(t time.Time) string {
	name := t.Location().String()
	if name == "Local" {
		name, _ = t.Zone()
		name = "this machine's zone " + name
	}
	if name == "UTC" {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, t.Format("-07:00"))
}

// formatTime is PostgreSQL's output form in UTC, with an explicit offset.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999") + "+00" }
