package postgres

import (
	"encoding/binary"
	"fmt"
)

// Resource managers and operations that a summary of WAL looks at, besides those
// in walrecord.go (access/rmgrlist.h, catalog/pg_control.h,
// catalog/storage_xlog.h, commands/dbcommands_xlog.h).
const (
	walManagerSMGR     = 2
	walManagerDatabase = 4

	walCheckpointShutdown  = 0x00
	walParameterChange     = 0x60
	walEndOfRecovery       = 0x90
	walOverwroteContinued  = 0xD0
	walCheckpointRedo      = 0xE0
	walSMGRCreate          = 0x10
	walSMGRTruncate        = 0x20
	walTruncateHeap        = 1 << 0
	walTruncateVM          = 1 << 1
	walDatabaseCreateCopy  = 0x00
	walDatabaseCreateByWAL = 0x10 // 15 and later; before, it is what drops one
	walDatabaseDrop        = 0x20 // 15 and later
	walDatabaseDrop14      = 0x10
	walLevelMinimal        = 0
)

// operation is what the resource manager says of the kind of record.
func (h walRecordHeader) operation() byte { return h.info & walOperationMask }

// summaryNeeds is how much of a record's body a summary looks at.
func (h walRecordHeader) summaryNeeds() int {
	switch h.manager {
	case walManagerXLOG:
		switch h.operation() {
		case walCheckpointShutdown, walParameterChange, walEndOfRecovery, walOverwroteContinued, walCheckpointRedo:
			return walRecordMaxSize
		}
	case walManagerXact:
		if h.endsTransaction() && h.info&walXactHasInfo != 0 { // others remove no files
			return walRecordMaxSize
		}
	case walManagerSMGR, walManagerDatabase:
		return walRecordMaxSize
	}
	return walHeadersSize
}

// walLevel is the wal_level that a record tells of, from where on it holds. The
// server says it when it comes up with another level, and from 17 on with every
// checkpoint. ok is false for other records.
func (h walRecordHeader) walLevel(major int, main []byte) (level uint32, ok bool, err error) {
	if h.manager != walManagerXLOG {
		return 0, false, nil
	}
	c := walCursor{left: main}
	switch operation := h.operation(); {
	case operation == walParameterChange:
		c.bytes(5 * 4) // five numbers of xl_parameter_change
	case major < 17:
		return 0, false, nil
	case operation == walCheckpointShutdown:
		c.bytes(8 + 4 + 4 + 4) // redo, two timelines, fullPageWrites of CheckPoint
	case operation == walEndOfRecovery:
		c.bytes(8 + 4 + 4) // time and two timelines of xl_end_of_recovery
	case operation == walCheckpointRedo:
	default:
		return 0, false, nil
	}
	level = c.uint32()
	return level, c.err == nil, c.err
}

// tellsOverwritten is whether the record says that the one before it was cut off.
func (h walRecordHeader) tellsOverwritten() bool {
	return h.manager == walManagerXLOG && h.operation() == walOverwroteContinued
}

// overwritten is the start of the record that a crash cut off, and of which the
// server gave up what there was. ok is false for records that do not tell that.
func (h walRecordHeader) overwritten(main []byte) (start LSN, ok bool, err error) {
	if !h.tellsOverwritten() {
		return 0, false, nil
	}
	c := walCursor{left: main}
	if b := c.bytes(8); b != nil {
		start = LSN(binary.LittleEndian.Uint64(b))
	}
	return start, c.err == nil, c.err
}

// truncations puts into the table what a record does to whole forks: makes them,
// cuts them off, removes them. The rules are those of PostgreSQL's own
// summaries (postmaster/walsummarizer.c). The map of free space is left out, since
// its changes are not in WAL.
func (h walRecordHeader) truncations(major int, main []byte, t *BlockTable) error {
	c := walCursor{left: main}
	switch h.manager {
	case walManagerSMGR:
		h.storageTruncations(&c, t)
	case walManagerDatabase:
		h.databaseTruncations(major, &c, t)
	case walManagerXact:
		if !h.endsTransaction() {
			return nil
		}
		c.time()
		relations := c.xactParts(major, h.xactKind(), h.info).relations
		for ; len(relations) > 0 && c.err == nil; relations = relations[walRelationSize:] {
			dropped := parseWALRelation(relations)
			for _, fork := range [...]RelationFork{MainFork, VMFork, InitFork} {
				dropped.Fork = fork
				t.Truncate(dropped, 0)
			}
		}
	}
	return c.err
}

// storageTruncations decodes xl_smgr_create and xl_smgr_truncate.
func (h walRecordHeader) storageTruncations(c *walCursor, t *BlockTable) {
	switch h.operation() {
	case walSMGRCreate:
		fork := parseWALRelation(c.bytes(walRelationSize))
		fork.Fork = RelationFork(c.uint32())
		if fork.Fork > InitFork {
			c.err = fmt.Errorf("it makes %s of a relation, which is unknown", fork.Fork)
		}
		if c.err == nil && fork.Fork != FSMFork {
			t.Truncate(fork, 0)
		}
	case walSMGRTruncate:
		limit := c.uint32()
		fork := parseWALRelation(c.bytes(walRelationSize))
		flags := c.uint32()
		if c.err != nil {
			return
		}
		if flags&walTruncateHeap != 0 {
			t.Truncate(fork, limit)
		}
		if flags&walTruncateVM != 0 {
			// How many heap blocks a block of the map stands for depends on the
			// page size. That is not known here, and nobody relies on what a
			// summary says of the map, because WAL does not register all of its changes.
			fork.Fork = VMFork
			t.Truncate(fork, 0)
		}
	}
}

// databaseTruncations decodes the records about whole databases. That all of it
// is to be read again is told by node 0.
func (h walRecordHeader) databaseTruncations(major int, c *walCursor, t *BlockTable) {
	operation := h.operation()
	created := operation == walDatabaseCreateCopy || major >= 15 && operation == walDatabaseCreateByWAL
	dropped := operation == walDatabaseDrop
	if major < 15 {
		dropped = operation == walDatabaseDrop14
	}
	if !created && !dropped {
		return
	}
	tablespaces := uint32(1)
	fork := RelationForkID{Database: c.uint32()}
	if dropped {
		tablespaces = c.uint32()
	}
	for ; tablespaces > 0 && c.err == nil; tablespaces-- {
		if fork.Tablespace = c.uint32(); c.err == nil {
			t.Truncate(fork, 0)
		}
	}
}
