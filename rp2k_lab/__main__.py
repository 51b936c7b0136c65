"""`python -m rp2k_lab` and the command `rp2k-lab`: what run.py does, for an installed package."""

import sys


def main() -> int:
    """Run the command line; return the exit code."""
    import hydra

    from rp2k_lab.cli import app
    from rp2k_lab.config.choices import CONF

    return app.main(hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(app.run_task))


if __name__ == "__main__":
    sys.exit(main())
