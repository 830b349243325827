// Command churn simulates how a repository ages: a cluster changes from day to
// day, is backed up every day, and old backups expire. It drives the real writer
// and reader in a store in memory and prints, for each workload, how many bytes
// are stored for each that is still used, and how many a restore reads.
//
//	go run ./bench/churn                          # a row for each workload, plan and retention
//	go run ./bench/churn -curve -workload mixed   # a row for each day, as CSV
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/pgbak/pgbak/repo"
)

// plan is which type of backup is taken on a day.
type plan struct {
	name string
	typ  func(day int) repo.BackupType
}

var plans = []plan{
	{"weekly full, incr", func(day int) repo.BackupType {
		if day%7 == 0 {
			return repo.Full
		}
		return repo.Incremental
	}},
	{"weekly full, diff", func(day int) repo.BackupType {
		if day%7 == 0 {
			return repo.Full
		}
		return repo.Differential
	}},
	{"incr for ever", func(int) repo.BackupType { return repo.Incremental }},
}

// settings of the simulations.
type settings struct {
	days, files, pages, packs int
}

// The batches of a restore, in bytes: those of package restore.
const (
	farBatch  = 16 << 20
	nearBatch = 4 << 20
)

// row is what one day leaves.
type row struct {
	day      int
	added    float64 // stored by the day's backup, in copies of the cluster
	stored   float64 // all objects, in copies of the cluster
	perFrame float64 // all objects by the frames that kept backups use
	perPage  float64 // all objects by the versions of pages that kept backups hold
	far      float64 // what a restore from a far store reads, in copies of the cluster
	near     float64 // and from one whose reads are cheap
}

func simulate(ctx context.Context, o settings, load workload, p plan, retention int, each func(row)) error {
	s, err := newStore(ctx, o.packs)
	if err != nil {
		return err
	}
	c := newCluster(o.files, o.pages, 1)
	perPage := 0.0 // stored bytes of a page in a fresh full backup
	for day := range o.days {
		if day > 0 {
			load.day(c, day)
		}
		r := row{day: day}
		added, err := s.backup(ctx, c, p.typ(day), day)
		if err != nil {
			return fmt.Errorf("day %d: %w", day, err)
		}
		if err := s.expire(ctx, day-retention+1); err != nil {
			return err
		}
		stored, used, err := s.sizes(ctx)
		if err != nil {
			return err
		}
		if day == 0 {
			perPage = float64(added) / float64(c.pages())
		}
		full := perPage * float64(c.pages())
		r.added, r.stored = float64(added)/full, float64(stored)/full
		r.perFrame, r.perPage = float64(stored)/float64(used), float64(stored)/(perPage*float64(len(s.pages)))
		for _, m := range []struct {
			batch int64
			to    *float64
		}{{farBatch, &r.far}, {nearBatch, &r.near}} {
			read, err := s.restore(ctx, c, m.batch)
			if err != nil {
				return fmt.Errorf("restore of day %d: %w", day, err)
			}
			*m.to = float64(read) / full
		}
		each(r)
	}
	return nil
}

// summary is the worst and the mean of the days after the first weeks.
type summary struct {
	from int
	n    float64
	mean row
	max  row
}

func (s *summary) add(r row) {
	if r.day < s.from {
		return
	}
	s.n++
	for _, v := range []struct {
		mean, max *float64
		now       float64
	}{{&s.mean.added, &s.max.added, r.added}, {&s.mean.stored, &s.max.stored, r.stored}, {&s.mean.perFrame, &s.max.perFrame, r.perFrame},
		{&s.mean.perPage, &s.max.perPage, r.perPage}, {&s.mean.far, &s.max.far, r.far}, {&s.mean.near, &s.max.near, r.near}} {
		*v.mean += (v.now - *v.mean) / s.n
		*v.max = max(*v.max, v.now)
	}
}

func main() {
	o := settings{}
	flag.IntVar(&o.days, "days", 60, "simulated `DAYS`")
	flag.IntVar(&o.files, "files", 8, "relation files")
	flag.IntVar(&o.pages, "pages", 2048, "pages of each file")
	flag.IntVar(&o.packs, "pack", 1<<20, "size of a pack, in `BYTES`")
	only := flag.String("workload", "", "only the workload of this `NAME`")
	onlyPlan := flag.String("plan", "", "only the plan of this `NAME`")
	onlyRetention := flag.Int("retention", 0, "only this retention, in `DAYS`")
	curve := flag.Bool("curve", false, "print a row for each day, as CSV")
	flag.Parse()
	if *curve {
		fmt.Println("workload,plan,retention,day,added,stored,stored/frames,stored/pages,restore far,restore near")
	} else {
		fmt.Println("| workload | plan | days kept | upload % a day | stored | stored/frames mean (max) | stored/pages mean (max) | restore far mean (max) | restore near mean (max) |")
		fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	}
	for _, load := range workloads {
		for _, p := range plans {
			for _, retention := range []int{14, 35} {
				if *only != "" && *only != load.name || *onlyPlan != "" && *onlyPlan != p.name || *onlyRetention != 0 && *onlyRetention != retention {
					continue
				}
				sum := summary{from: 14}
				err := simulate(context.Background(), o, load, p, retention, func(r row) {
					sum.add(r)
					if *curve {
						fmt.Printf("%q,%q,%d,%d,%.4f,%.3f,%.3f,%.3f,%.3f,%.3f\n", load.name, p.name, retention, r.day, r.added, r.stored, r.perFrame, r.perPage, r.far, r.near)
					}
				})
				if err != nil {
					fmt.Fprintf(os.Stderr, "churn: %s, %s: %v\n", load.name, p.name, err)
					return
				}
				if !*curve {
					fmt.Printf("| %s | %s | %d | %.1f | %.2f | %.2f (%.2f) | %.2f (%.2f) | %.2f (%.2f) | %.2f (%.2f) |\n", load.name, p.name, retention, 100*sum.mean.added, sum.mean.stored,
						sum.mean.perFrame, sum.max.perFrame, sum.mean.perPage, sum.max.perPage, sum.mean.far, sum.max.far, sum.mean.near, sum.max.near)
				}
			}
		}
	}
}
