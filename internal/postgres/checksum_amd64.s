#include "textflag.h"

// The prime of FNV-1a, for every lane.
DATA checksumPrime<>+0(SB)/4, $16777619
GLOBL checksumPrime<>(SB), RODATA|NOPTR, $4

// All ones but for pd_checksum: bytes 8 and 9 of the page.
DATA checksumField<>+0(SB)/8, $0xFFFFFFFFFFFFFFFF
DATA checksumField<>+8(SB)/8, $0xFFFFFFFFFFFF0000
DATA checksumField<>+16(SB)/8, $0xFFFFFFFFFFFFFFFF
DATA checksumField<>+24(SB)/8, $0xFFFFFFFFFFFFFFFF
GLOBL checksumField<>(SB), RODATA|NOPTR, $32

// ROUND finishes mixChecksum for four registers of sums, Y0 to Y3, that have
// the words of a row xored into them: sum*prime ^ sum>>17.
#define ROUND \
	VPSRLD  $17, Y0, Y4 \
	VPSRLD  $17, Y1, Y5 \
	VPSRLD  $17, Y2, Y6 \
	VPSRLD  $17, Y3, Y7 \
	VPMULLD Y8, Y0, Y0 \
	VPMULLD Y8, Y1, Y1 \
	VPMULLD Y8, Y2, Y2 \
	VPMULLD Y8, Y3, Y3 \
	VPXOR   Y4, Y0, Y0 \
	VPXOR   Y5, Y1, Y1 \
	VPXOR   Y6, Y2, Y2 \
	VPXOR   Y7, Y3, Y3

// func sumPageAVX2(page *byte, rows int, seeds *[32]uint32) uint32
TEXT ·sumPageAVX2(SB), NOSPLIT, $0-28
	MOVQ page+0(FP), SI
	MOVQ rows+8(FP), CX
	MOVQ seeds+16(FP), DI

	VPBROADCASTD checksumPrime<>(SB), Y8
	VMOVDQU      0(DI), Y0
	VMOVDQU      32(DI), Y1
	VMOVDQU      64(DI), Y2
	VMOVDQU      96(DI), Y3

	// The first row, with pd_checksum taken as zero.
	VMOVDQU 0(SI), Y4
	VPAND   checksumField<>(SB), Y4, Y4
	VPXOR   Y4, Y0, Y0
	JMP     lanes

row:
	VPXOR 0(SI), Y0, Y0

lanes:
	VPXOR 32(SI), Y1, Y1
	VPXOR 64(SI), Y2, Y2
	VPXOR 96(SI), Y3, Y3
	ROUND
	ADDQ  $128, SI
	DECQ  CX
	JNZ   row

	// Two rows of zeros.
	ROUND
	ROUND

	// Fold thirty-two lanes into one.
	VPXOR        Y1, Y0, Y0
	VPXOR        Y3, Y2, Y2
	VPXOR        Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0x4E, X0, X1
	VPXOR        X1, X0, X0
	VPSHUFD      $0xB1, X0, X1
	VPXOR        X1, X0, X0
	VMOVD        X0, AX
	VZEROUPPER
	MOVL         AX, ret+24(FP)
	RET
