package main

import (
	"context"
	"testing"
)

// TestRepositoriesAgeWell holds the targets, on a small cluster: after the first
// two weeks less than 1.5 bytes are stored for each that kept backups use, and a
// restore reads less than 2.5 times what it would of a fresh full backup. What
// is restored is compared page by page, every day.
func TestRepositoriesAgeWell(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	for _, test := range []struct {
		workload, plan int
	}{{0, 0}, {0, 1}, {1, 2}, {5, 0}, {5, 2}} {
		load, p := workloads[test.workload], plans[test.plan]
		t.Run(load.name+", "+p.name, func(t *testing.T) {
			sum := summary{from: 14}
			o := settings{days: 42, files: 4, pages: 512, packs: 256 << 10}
			if err := simulate(context.Background(), o, load, p, 14, sum.add); err != nil {
				t.Fatal(err)
			}
			if sum.n != 28 || sum.max.perFrame >= 1.5 || sum.max.far >= 2.5 || sum.max.near >= 2.5 {
				t.Errorf("on the worst of %.0f days %.2f bytes are stored for one in use, and %.2f (far) and %.2f (near) are read by a restore",
					sum.n, sum.max.perFrame, sum.max.far, sum.max.near)
			}
			t.Logf("stored by used %.2f, restore %.2f, upload %.1f %% a day", sum.max.perFrame, sum.max.far, 100*sum.mean.added)
		})
	}
}
