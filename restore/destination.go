package restore

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
)

// TablespacePlan is where a tablespace goes.
type TablespacePlan struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name"`
	Recorded string `json:"recorded,omitempty"` // at the time of the backup
	// Destination is empty for a tablespace in place, inside the data directory.
	Destination string `json:"destination,omitempty"`
}

// LinkPlan is where a linked directory goes.
type LinkPlan struct {
	Path        string `json:"path"` // of the link, in the data directory
	Recorded    string `json:"recorded"`
	Destination string `json:"destination"`
}

// destination is a directory that files are written to: the data directory, a
// tablespace or what a link points to.
type destination struct {
	// prefix is the backup path that leads to it, "" for the data directory.
	prefix     string
	dir        string // absolute
	tablespace bool
}

// role names what the directory is for, in errors.
func (d destination) role() string {
	switch {
	case d.prefix == "":
		return "target directory"
	case d.tablespace:
		return "directory of tablespace " + path.Base(d.prefix)
	default:
		return "destination of the link " + d.prefix
	}
}

// otherwise is how to choose another directory, for hints.
func (d destination) otherwise() string {
	switch {
	case d.prefix == "":
		return ""
	case d.tablespace:
		return fmt.Sprintf(" Another one is chosen by --tablespace-map %s=DIRECTORY, or for all by --tablespace-map-all.", path.Base(d.prefix))
	default:
		return fmt.Sprintf(" Another one is chosen by --link-map %s=DIRECTORY.", d.prefix)
	}
}

// rel is the part of a backup path below the destination, "." for itself; ok
// is false when the path does not belong there.
func (d destination) rel(p string) (rel string, ok bool) {
	if d.prefix == "" {
		return p, true
	}
	if p == d.prefix {
		return ".", true
	}
	return strings.CutPrefix(p, d.prefix+"/")
}

// locate finds the destination that a backup path belongs to: the one with the
// longest prefix, since a link may lie behind another.
func locate[D interface{ rel(string) (string, bool) }](all []D, p string) (at D, rel string) {
	for _, d := range all {
		if r, ok := d.rel(p); ok && (rel == "" || len(r) < len(rel)) {
			at, rel = d, r
		}
	}
	return at, rel
}

// place finds all destinations and refuses them before anything is written.
func (p *Plan) place(o Options) error {
	p.destinations = []destination{{dir: p.TargetDir}}
	if err := p.placeTablespaces(o); err != nil {
		return err
	}
	if err := p.placeLinks(o); err != nil {
		return err
	}
	for _, d := range p.destinations {
		if err := checkDirectory(d.role(), d.dir); err != nil {
			return hint.Wrap(err, "%s", hint.Of(err)+d.otherwise())
		}
	}
	if err := checkApart(p.destinations); err != nil {
		return err
	}
	p.describe(o)
	return nil
}

func (p *Plan) placeTablespaces(o Options) error {
	used := map[string]bool{}
	for _, t := range p.Backup.Tablespaces {
		entry := TablespacePlan{OID: t.OID, Name: t.Name, Recorded: t.Location, Destination: t.Location}
		oid := strconv.FormatUint(uint64(t.OID), 10)
		mapped := false
		for _, key := range []string{t.Name, oid} {
			if dir, ok := o.TablespaceMap[key]; ok {
				entry.Destination, mapped, used[key] = dir, true, true
			}
		}
		switch {
		case t.InPlace && mapped:
			return unfit("leave it out of --tablespace-map.", "tablespace %s lies in place, inside the data directory, and cannot be mapped", t.Name)
		case t.InPlace:
			entry.Destination = ""
		case !mapped && o.TablespaceMapAll != "":
			entry.Destination = filepath.Join(o.TablespaceMapAll, oid)
		}
		if !t.InPlace {
			p.destinations = append(p.destinations, destination{prefix: "pg_tblspc/" + oid, dir: entry.Destination, tablespace: true})
		}
		p.Tablespaces = append(p.Tablespaces, entry)
	}
	for key := range o.TablespaceMap {
		if !used[key] {
			return unfit("'pgbak restore --plan' without the map shows the tablespaces.", "the backup has no tablespace %q", key)
		}
	}
	return nil
}

func (p *Plan) placeLinks(o Options) error {
	used := map[string]bool{}
	var unnamed []LinkPlan
	for _, f := range p.tree.links {
		if slices.ContainsFunc(p.destinations, func(d destination) bool { return d.prefix == f.Path }) {
			continue // a tablespace's
		}
		entry := LinkPlan{Path: f.Path, Recorded: f.LinkTarget, Destination: f.LinkTarget}
		if dir, ok := o.LinkMap[f.Path]; ok {
			entry.Destination, used[f.Path] = dir, true
		} else if !filepath.IsAbs(f.LinkTarget) {
			entry.Destination = filepath.Join(p.TargetDir, filepath.FromSlash(path.Dir(f.Path)), f.LinkTarget)
		}
		if !used[f.Path] {
			unnamed = append(unnamed, entry)
		}
		p.Links = append(p.Links, entry)
		p.destinations = append(p.destinations, destination{prefix: f.Path, dir: entry.Destination})
	}
	for key := range o.LinkMap {
		if !used[key] {
			return unfit("'pgbak restore --plan' without the map shows the links.", "the backup has no link %q", key)
		}
	}
	if o.LinkAll {
		return nil
	}
	return checkLinks(unnamed, os.Geteuid() == 0)
}

// checkLinks refuses to let root follow links that only the backup names: who
// can write to the repository could make a directory such as /root/.ssh, with
// content of their choice. Another user reaches only what is theirs.
func checkLinks(unnamed []LinkPlan, root bool) error {
	if !root || len(unnamed) == 0 {
		return nil
	}
	var list []string
	for _, l := range unnamed {
		list = append(list, fmt.Sprintf("%s to %s", l.Path, l.Destination))
	}
	return unfit("if these are the places that you want, give --link-all; else choose with --link-map PATH=DIRECTORY, or run as the owner of the cluster.",
		"as root, directories outside of the target directory are not written to because a backup says so; its links are %s", strings.Join(list, ", "))
}

// describe fills in the sizes and what the user ought to know about them.
func (p *Plan) describe(o Options) {
	p.Files, p.Bytes, p.StoredBytes = p.tree.files, p.tree.bytes, p.Backup.ReferencedSize
	if free, ok := freeSpace(p.TargetDir); ok && len(p.destinations) == 1 && free < p.Bytes {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the cluster has %d bytes, and %s has room for %d: without many holes in its files it will not fit",
			p.Bytes, p.TargetDir, free))
	}
	if !p.tree.settings {
		p.Notes = append(p.Notes, "the backup has no postgresql.conf: the cluster kept it outside of its data directory, as Debian's do; the server has to be started with its own")
	}
	if o.Target.Type != TargetLatest && o.Target.Action == "" {
		p.Notes = append(p.Notes, "the server will pause at the target: look at the data, then call pg_wal_replay_resume() or restore again")
	}
	if !o.ArchiveModeOff {
		p.Notes = append(p.Notes, "archive_mode stays as it was: once the server is promoted it archives into this stanza, on a new timeline, which later restores follow; for a rehearsal restore with --archive-mode off")
	}
}
