package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// modulePath is the import path of the module whose rules these are.
const modulePath = "github.com/pgbak/pgbak"

// A Package is what import rules know of a package, as `go list -deps -json` prints it.
type Package struct {
	// ImportPath is the full path; that of a package of this module begins with the module's.
	ImportPath string
	// Imports are the packages that its non-test files import directly.
	Imports []string
	// Deps are all packages that it is linked with, without itself.
	Deps []string
}

// A Finding is one violation of a rule.
type Finding struct {
	// Where is a package or file:line.
	Where string
	// What is wrong there.
	What string
	// Why the rule exists, or what to do.
	Why string
}

func (f Finding) String() string { return fmt.Sprintf("%s: %s (%s)", f.Where, f.What, f.Why) }

// Packages returns the packages of this module and all they are linked with, for which it runs the go command in dir.
func Packages(dir string) ([]Package, error) {
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []Package
	decoder := json.NewDecoder(out)
	for {
		var p Package
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("output of go list: %w", err), cmd.Wait())
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, complaint.String())
	}
	return all, nil
}

// A Layer says what the packages of one top-level directory, or of a part of it, may import of this module.
type Layer struct {
	// Path is relative to the module; the layer is that package and all below it. The longest path counts.
	Path string
	// May lists the paths (again with all below) that it may import besides its own; "*" is everything.
	May []string
	// Why is the reason.
	Why string
}

// layers is the table of the house, from the top down. Imports point down only.
func layers() []Layer {
	const (
		meet     = "archive, backup and restore are siblings that meet in repo and never import one another"
		down     = "imports point down only"
		internal = "what is internal is for every layer, so it cannot know one"
	)
	return []Layer{
		{"cmd", []string{"*"}, "a command may use everything"},
		{"e2e", []string{"*"}, "end-to-end tests may use everything"},
		{"bench", []string{"*"}, "benchmarks may use everything"},
		{"operatorglue", []string{"k8sjob", "archive", "backup", "restore", "repo", "storage", "internal"}, down},
		{"k8sjob", []string{"internal"}, "it builds Kubernetes objects and does nothing else"},
		{"archive", []string{"repo", "storage", "internal"}, meet},
		{"backup", []string{"repo", "storage", "internal"}, meet},
		{"restore", []string{"repo", "storage", "internal"}, meet},
		{"repo", []string{"storage", "internal"}, down},
		{"storage", []string{"internal"}, down},
		{"internal", []string{"internal"}, internal},
		{"internal/postgres", []string{"internal"}, internal},
		{"internal/readiness", []string{"repo", "storage", "internal"}, "it is the part that check and backup share, above repo"},
	}
}

// layerOf returns the layer with the longest path that holds the package.
func layerOf(table []Layer, relative string) (Layer, bool) {
	var best Layer
	found := false
	for _, layer := range table {
		if within(relative, layer.Path) && (!found || len(layer.Path) > len(best.Path)) {
			best, found = layer, true
		}
	}
	return best, found
}

// within tells whether path is parent or below it.
func within(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

// relativePath cuts the module's path off, and tells whether the package is one of the module.
func relativePath(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, modulePath+"/")
}

// CheckLayers finds the imports between packages of this module that the table does not allow.
func CheckLayers(packages []Package, table []Layer) []Finding {
	var findings []Finding
	for _, p := range packages {
		from, ours := relativePath(p.ImportPath)
		if !ours {
			continue
		}
		layer, known := layerOf(table, from)
		if !known {
			findings = append(findings, Finding{from, "is in no layer", "give it a place in layers() in internal/lint/imports.go"})
			continue
		}
		for _, imported := range p.Imports {
			to, ours := relativePath(imported)
			allowed := func(path string) bool { return path == "*" || within(to, path) }
			if ours && !within(to, layer.Path) && !slices.ContainsFunc(layer.May, allowed) {
				findings = append(findings, Finding{from, "imports " + to, layer.Why})
			}
		}
	}
	return findings
}

// thirdParty as a forbidden path means every package that is neither of this module nor of the standard library, whose
// golang.org/x/sys counts as a part: it is how vector code asks what the processor can do.
const thirdParty = "third party"

// A Fence keeps a set of packages out of a part of the module.
type Fence struct {
	// Forbidden lists import paths, each with all below it, or thirdParty.
	Forbidden []string
	// Inside lists the parts of the module that the fence is around; "*" is all of it.
	Inside []string
	// Except lists the parts that may nevertheless.
	Except []string
	// Linked counts what is linked in by others, not only what is imported directly.
	Linked bool
	// Why is the reason.
	Why string
}

// fences are the rules about packages that are not layers of this module.
func fences() []Fence {
	return []Fence{
		{
			Forbidden: []string{"k8s.io", "sigs.k8s.io"}, Inside: []string{"*"},
			Except: []string{"k8sjob", "operatorglue", "cmd/pgbak-operator"}, Linked: true,
			Why: "only k8sjob, operatorglue and the operator's command know Kubernetes; archive-push starts once per WAL segment and must not pay for it",
		},
		{
			Forbidden: []string{thirdParty}, Inside: []string{"internal/postgres"}, Except: []string{"internal/postgres/server"},
			Why: "PostgreSQL's formats need the standard library and internal packages only; whoever reads a WAL header must not link a driver",
		},
		{
			Forbidden: []string{"github.com/jackc"}, Inside: []string{"internal/postgres", "storage", "repo"},
			Except: []string{"internal/postgres/server"}, Linked: true,
			Why: "the repository and PostgreSQL's formats work without a server",
		},
		{
			Forbidden: []string{"github.com/spf13"}, Inside: []string{"*"}, Except: []string{"cmd"}, Linked: true,
			Why: "flags belong to the commands",
		},
		{
			Forbidden: []string{modulePath + "/internal/pgtest", modulePath + "/internal/s3test", modulePath + "/internal/waltest", "testing"}, Inside: []string{"*"},
			Except: []string{"internal/pgtest", "internal/s3test", "internal/waltest", "storage/storagetest", "internal/lint", "e2e", "bench"},
			Linked: true, Why: "test kits stay out of programs",
		},
		{
			Forbidden: []string{modulePath + "/internal/readiness"}, Inside: []string{"storage", "repo", "restore", "internal"},
			Except: []string{"internal/readiness"}, Linked: true,
			Why: "readiness is above repo: only backup, archive and the commands ask it",
		},
		{
			Forbidden: []string{"github.com/aws"}, Inside: []string{"*"}, Except: []string{"storage/s3", "internal/s3test"},
			Why: "only the driver knows the SDK: everything above it speaks to a storage.Store",
		},
	}
}

// CheckFences finds packages that import, or are linked with, what a fence forbids them.
func CheckFences(packages []Package, fences []Fence) []Finding {
	var findings []Finding
	for _, p := range packages {
		from, ours := relativePath(p.ImportPath)
		if !ours {
			continue
		}
		for _, fence := range fences {
			if !covers(fence.Inside, from) || covers(fence.Except, from) {
				continue
			}
			reached, verb := p.Imports, "imports "
			if fence.Linked {
				reached, verb = p.Deps, "is linked with "
			}
			for _, path := range reached {
				if fence.forbids(path) {
					findings = append(findings, Finding{from, verb + path, fence.Why})
				}
			}
		}
	}
	return findings
}

// forbids tells whether the import path is one that the fence keeps out.
func (f Fence) forbids(path string) bool {
	if covers(f.Forbidden, path) {
		return true
	}
	// The paths of the standard library alone have no dot in their first element.
	first, _, _ := strings.Cut(path, "/")
	return slices.Contains(f.Forbidden, thirdParty) && strings.Contains(first, ".") &&
		!within(path, modulePath) && !within(path, "golang.org/x/sys")
}

// covers tells whether one of the parts holds the path.
func covers(parts []string, path string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return part == "*" || within(path, part) })
}
