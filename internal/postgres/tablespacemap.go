package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// TablespaceLink is one tablespace of a cluster: pg_tblspc/OID points to Path.
type TablespaceLink struct {
	OID uint32
	// Path is absolute; it may hold any byte but 0.
	Path string
}

// ParseTablespaceMap reads tablespace_map as PostgreSQL major wrote it: a line
// "OID path" for each tablespace. A backslash takes the meaning from the byte
// after it: from any byte since 14, only from line ends in 13, where it stands
// for itself elsewhere (read_tablespace_map of the server).
func ParseTablespaceMap(data []byte, major int) ([]TablespaceLink, error) {
	var links []TablespaceLink
	var line []byte
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '\\' && i+1 < len(data) && (major >= 14 || escapedInMap(data[i+1], major)):
			i++
			line = append(line, data[i])
		case c != '\n' && c != '\r':
			line = append(line, c)
		case len(line) > 0: // else the second half of a line end of two bytes
			link, err := parseTablespaceLink(string(line))
			if err != nil {
				return nil, err
			}
			links = append(links, link)
			line = line[:0]
		}
	}
	if len(line) > 0 {
		return nil, fmt.Errorf("tablespace_map: last line %q has no end", clip(string(line)))
	}
	return links, nil
}

// escapedInMap says whether PostgreSQL major puts a backslash before c.
func escapedInMap(c byte, major int) bool {
	return c == '\n' || c == '\r' || c == '\\' && major >= 14
}

func parseTablespaceLink(line string) (TablespaceLink, error) {
	number, path, ok := strings.Cut(line, " ")
	oid, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || oid == 0 || path == "" || strings.IndexByte(path, 0) >= 0 {
		return TablespaceLink{}, fmt.Errorf("tablespace_map: %q is not an OID and a path", clip(line))
	}
	return TablespaceLink{OID: uint32(oid), Path: path}, nil
}

// FormatTablespaceMap writes tablespace_map for PostgreSQL major, the inverse of
// ParseTablespaceMap. The server makes the links in pg_tblspc from it when it
// begins to recover a backup.
//
// PostgreSQL 13 cannot express a path with a backslash before a line end, nor
// one that ends in a backslash: its map reads back as something else. A path
// that is empty or holds a zero byte is no path at all.
func FormatTablespaceMap(links []TablespaceLink, major int) []byte {
	var out []byte
	for _, link := range links {
		out = strconv.AppendUint(out, uint64(link.OID), 10)
		out = append(out, ' ')
		for i := range len(link.Path) {
			if escapedInMap(link.Path[i], major) {
				out = append(out, '\\')
			}
			out = append(out, link.Path[i])
		}
		out = append(out, '\n')
	}
	return out
}
